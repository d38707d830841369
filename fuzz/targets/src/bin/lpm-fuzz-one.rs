//! Runs one input of a target, as a finding is looked at: `lpm-fuzz-one TARGET FILE`.

use std::{env, fs, process::ExitCode};

use lpm_fuzz_targets::TARGETS;

fn main() -> ExitCode {
    let mut arguments = env::args().skip(1);
    let (Some(name), Some(file)) = (arguments.next(), arguments.next()) else {
        eprintln!("give a target and a file");
        return ExitCode::FAILURE;
    };
    let Some((_, target)) = TARGETS.iter().find(|(known, _)| *known == name) else {
        let names = TARGETS.map(|(name, _)| name).join(", ");
        eprintln!("there is no target {name}; the targets are {names}");
        return ExitCode::FAILURE;
    };
    match fs::read(&file) {
        Ok(data) => target(&data),
        Err(error) => {
            eprintln!("{file} cannot be read: {error}");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}
