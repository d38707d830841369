//! The list of commands and options that must not change by accident.

use clap::{Arg, ArgAction, Command, CommandFactory as _, builder::PossibleValue};

use super::Cli;
use crate::docs::assert_current;

/// One argument: `-i, --interface <IFACE>...`, its values and its default.
fn argument(arg: &Arg) -> String {
    let short = arg.get_short().map(|short| format!("-{short}"));
    let long = arg.get_long().map(|long| format!("--{long}"));
    let mut text = short.into_iter().chain(long).collect::<Vec<_>>().join(", ");
    if arg.get_action().takes_values() {
        let names = arg.get_value_names().unwrap_or_default();
        let names: Vec<String> = names.iter().map(|name| format!("<{name}>")).collect();
        text = format!("{text} {}", names.join(" ")).trim().to_owned();
    }
    if matches!(arg.get_action(), ArgAction::Append | ArgAction::Count) {
        text += "...";
    }
    let values = arg.get_possible_values();
    let values: Vec<&str> = values.iter().map(PossibleValue::get_name).collect();
    if arg.get_action().takes_values() && !values.is_empty() {
        text = format!("{text}: {}", values.join(", "));
    }
    let default = arg.get_default_values().iter();
    let default: Vec<_> = default.map(|value| value.to_string_lossy()).collect();
    if arg.get_action().takes_values() && !default.is_empty() {
        text = format!("{text}; default {}", default.join(" "));
    }
    text
}

/// A line for each command and each of its arguments.
fn lines(command: &Command, before: &str, list: &mut String) {
    let path = format!("{before}{}", command.get_name());
    list.extend([&path, "\n"]);
    for arg in command.get_arguments() {
        list.extend([&*path, " ", &argument(arg), "\n"]);
    }
    for inside in command.get_subcommands() {
        lines(inside, &format!("{path} "), list);
    }
}

#[test]
fn the_list_of_commands_is_current() {
    let mut list = String::new();
    lines(&Cli::command(), "", &mut list);
    assert_current("reference/commands.txt", &list);
}
