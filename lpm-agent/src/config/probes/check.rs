//! What of the key `probes` cannot work.

use std::{net::IpAddr, time::Duration};

use super::{Host, LONGEST, LONGEST_NAME, Probed, Probes, SESSIONS, Target, Train, groups, tags};
use crate::config::ConfigError;

impl Probes {
    /// Checks the values for all targets, and then each target.
    pub(in crate::config) fn check(&self) -> Result<(), ConfigError> {
        let wrong = |key, value: String, remedy| Err(ConfigError::Value { key, value, remedy });
        if self.port == 0 {
            return wrong("probes.port", "0".to_owned(), "give 1 to 65535");
        }
        if let Err((key, value, remedy)) = self.nodes.check() {
            return wrong(key, value, remedy);
        }
        groups::check(&self.groups)?;
        let all = Target {
            address: "all".to_owned(),
            ..Target::default()
        };
        if let Ok(probed) = self.of(&all)
            && let Err((key, value, remedy)) = probed.check()
        {
            return wrong(key, value, remedy);
        }
        let mut names = std::collections::HashSet::new();
        let mut sessions = 0;
        for target in &self.targets {
            let of = |what: &str| {
                format!(
                    "{:?}{what}",
                    target.name.as_ref().unwrap_or(&target.address)
                )
            };
            let probed = match self.of(target) {
                Ok(probed) => probed,
                Err(remedy) => return wrong("probes.targets", of(""), remedy),
            };
            let is_name = (1..=LONGEST_NAME).contains(&probed.name.len())
                && !probed.name.chars().any(char::is_control);
            if !is_name {
                return wrong(
                    "probes.targets",
                    of(""),
                    "give a name of 1 to 253 characters",
                );
            }
            if !names.insert(probed.name.clone()) {
                return wrong("probes.targets", of(" twice"), "give each name once");
            }
            if let Err((tag, remedy)) = tags::check(&target.tags) {
                return wrong("probes.targets", of(&format!(" with {tag}")), remedy);
            }
            if let Err((key, value, remedy)) = probed.check() {
                let key = key.trim_start_matches("probes.");
                return wrong(
                    "probes.targets",
                    of(&format!(" with {key} {value}")),
                    remedy,
                );
            }
            sessions += probed.classes.len();
        }
        self.fits(sessions)
    }

    /// Checks that so many sessions fit what there is of sockets, ports and packets.
    fn fits(&self, sessions: usize) -> Result<(), ConfigError> {
        let wrong = |key, value: String, remedy| Err(ConfigError::Value { key, value, remedy });
        if sessions > SESSIONS {
            let remedy = "give at most 512 pairs of a target and a class";
            return wrong("probes.targets", format!("{sessions} sessions"), remedy);
        }
        if let Some(ports) = self.ports
            && ports.count() < sessions
        {
            let value = format!("{ports}: {} ports for {sessions} sessions", ports.count());
            let remedy = "give a port for each pair of a target and a class";
            return wrong("probes.ports", value, remedy);
        }
        let Some(budget) = self.packets_per_second else {
            return Ok(());
        };
        let takes: f64 = (self.probed().iter()).map(Probed::packets_per_second).sum();
        let value = || format!("{budget}, and the list of targets takes {takes:.1}");
        if takes > f64::from(budget) || budget == 0 {
            let remedy = "give at least that, a longer interval, shorter trains, or fewer targets or classes";
            return wrong("probes.packets_per_second", value(), remedy);
        }
        if self.nodes.enabled && f64::from(budget) - takes < 1.0 {
            let remedy =
                "give at least one more for probes.nodes, a longer interval, or shorter trains";
            return wrong("probes.packets_per_second", value(), remedy);
        }
        Ok(())
    }
}

impl Probed {
    /// What cannot work: the key, its value, and the remedy.
    fn check(&self) -> Result<(), (&'static str, String, &'static str)> {
        let text = |time| humantime::format_duration(time).to_string();
        let Train { packets, spacing } = self.train;
        if !(1..=1000).contains(&packets) {
            return Err((
                "probes.train",
                format!("{packets} packets"),
                "give 1 to 1000 packets",
            ));
        }
        if !(Duration::from_micros(100)..=Duration::from_secs(1)).contains(&spacing) {
            return Err((
                "probes.train",
                format!("spacing {}", text(spacing)),
                "give a spacing of 100us to 1s",
            ));
        }
        if !(Duration::from_millis(100)..=Duration::from_hours(24)).contains(&self.interval) {
            return Err(("probes.interval", text(self.interval), "give 100ms to 24h"));
        }
        if spacing * u32::from(packets) > self.interval {
            let remedy =
                "give an interval that is at least as long as the train: packets times spacing";
            return Err(("probes.interval", text(self.interval), remedy));
        }
        if !(Duration::from_millis(10)..=Duration::from_mins(1)).contains(&self.timeout) {
            return Err(("probes.timeout", text(self.timeout), "give 10ms to 1m"));
        }
        let mut classes = self.classes.clone();
        classes.sort_unstable();
        classes.dedup();
        let is_good = (1..=8).contains(&classes.len())
            && classes.len() == self.classes.len()
            && classes.iter().all(|class| *class < 64);
        if !is_good {
            let remedy = "give one to eight different values from 0 to 63";
            return Err(("probes.classes", format!("{:?}", self.classes), remedy));
        }
        if self.size > LONGEST {
            return Err(("probes.size", self.size.to_string(), "give at most 9216"));
        }
        if self.key.as_ref().is_some_and(|key| key.session == 0) {
            return Err((
                "probes.key",
                "session 0".to_owned(),
                "give a session from 1 to 65535",
            ));
        }
        if let (Some(from), Host::Address(address)) = (&self.from, &self.host)
            && from
                .parse::<IpAddr>()
                .is_ok_and(|from| from.is_ipv4() != address.is_ipv4())
        {
            return Err((
                "probes.from",
                from.clone(),
                "give an address of the target's family",
            ));
        }
        Ok(())
    }
}
