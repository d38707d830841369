//! What is served to others.

use super::{Config, ConfigError, Key, Section, wrong};

pub(super) const SECTION: Section = Section {
    keys: &[
        Key::cold("listen", |a, b| a.listen != b.listen),
        Key::cold("health", |a, b| a.health != b.health),
        Key::cold("export", |a, b| a.export != b.export),
        // What is in the file is taken over while the agent runs. So are the files of tokens.
        Key::cold("web_config", |a, b| a.web_config != b.web_config),
        Key::cold("auth", |a, b| a.auth != b.auth),
        Key::cold("socket", |a, b| a.socket != b.socket),
    ],
    check,
};

fn check(config: &Config) -> Result<(), ConfigError> {
    config.auth.check()?;
    config.socket.check()?;
    config.identity.check_listens(config.listen)?;
    let taken = [Some(config.listen), config.health.listen];
    // Port 0 is another port for each listener.
    if let Some(export) = config.export.listen
        && export.port() != 0
        && taken
            .iter()
            .flatten()
            .any(|one| one.port() == export.port())
    {
        return wrong(
            "export.listen",
            export.to_string(),
            "give it another port than `listen` and `health.listen`, such as [::]:8090",
        );
    }
    match config.health.listen {
        // Port 0 is another port for each listener.
        Some(health) if health.port() != 0 && health.port() == config.listen.port() => wrong(
            "health.listen",
            health.to_string(),
            "give it another port than `listen`, such as 127.0.0.1:9478",
        ),
        _ => Ok(()),
    }
}
