//! What an agent takes: from /proc and from its own metrics.

use std::{collections::BTreeMap, fs, io, path::Path};

use super::Error;

/// What is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Measure {
    /// Anonymous memory, KiB (`RssAnon` of proc(5)).
    Memory,
    /// Open descriptors.
    Descriptors,
    /// Threads.
    Threads,
    /// Kernel maps that it holds.
    Maps,
    /// Memory of those maps, KiB (`memlock` of their fdinfo).
    MapMemory,
    /// How full the table of flows is, percent.
    Flows,
    /// How full the rows of histograms are, percent.
    Rows,
    /// How full the map of names is, percent.
    Names,
}

impl Measure {
    /// All that is read.
    pub const ALL: [Self; 8] = [
        Self::Memory,
        Self::Descriptors,
        Self::Threads,
        Self::Maps,
        Self::MapMemory,
        Self::Flows,
        Self::Rows,
        Self::Names,
    ];

    /// The heading of a column.
    #[must_use]
    pub fn title(self) -> &'static str {
        match self {
            Self::Memory => "RssAnon, KiB",
            Self::Descriptors => "descriptors",
            Self::Threads => "threads",
            Self::Maps => "maps",
            Self::MapMemory => "map memory, KiB",
            Self::Flows => "flows, %",
            Self::Rows => "rows, %",
            Self::Names => "names, %",
        }
    }

    /// By how much a flat measure may be higher in the last quarter than in the second one.
    ///
    /// An allocator's memory and the tables move up and down with what the traffic does; what the
    /// kernel counts does not.
    #[must_use]
    pub fn slack(self) -> f64 {
        match self {
            Self::Memory => 1024.0,
            Self::Descriptors => 2.0,
            Self::Threads => 1.0,
            Self::Maps => 0.0,
            // The kernel allocates the entries of some maps as they come.
            Self::MapMemory => 64.0,
            Self::Flows | Self::Rows | Self::Names => 3.0,
        }
    }
}

/// One reading of all measures, in the order of [`Measure::ALL`].
pub type Reading = [f64; Measure::ALL.len()];

/// Reads what a process takes; `metrics` is its page of metrics.
pub(super) fn read(pid: u32, metrics: &str) -> Result<Reading, Error> {
    let directory = Path::new("/proc").join(pid.to_string());
    let file = directory.join("status");
    let status = fs::read_to_string(&file).map_err(Error::io("read what an agent takes"))?;
    let (descriptors, maps) =
        descriptors(&directory).map_err(Error::io("read an agent's descriptors"))?;
    let field = |name| field(&status, name);
    let full = |map: &str| {
        let series = format!("lpm_map_pressure_ratio{{map=\"{map}\"}} ");
        let value = metrics.lines().find_map(|line| line.strip_prefix(&series));
        value.and_then(|value| value.parse().ok()).map_or_else(
            || Err(Error::Broken(format!("an agent does not tell {series}"))),
            |ratio: f64| Ok(ratio * 100.0),
        )
    };
    Ok([
        field("RssAnon:")?,
        count(descriptors),
        field("Threads:")?,
        count(maps.len()),
        maps.values().sum::<f64>() / 1024.0,
        full("flows")?,
        full("rows")?,
        full("names")?,
    ])
}

/// The number at the beginning of a field of `status` or `fdinfo`.
fn field(text: &str, name: &str) -> Result<f64, Error> {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let number = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    number.ok_or_else(|| Error::Broken(format!("the kernel does not tell {name}")))
}

/// Open descriptors, and the memory of each map among them, by the map's id.
fn descriptors(process: &Path) -> io::Result<(usize, BTreeMap<u32, f64>)> {
    let mut open = 0;
    let mut maps = BTreeMap::new();
    for entry in fs::read_dir(process.join("fdinfo"))? {
        open += 1;
        let info = match fs::read_to_string(entry?.path()) {
            // Closed meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            info => info?,
        };
        let Ok(memory) = field(&info, "memlock:") else {
            continue;
        };
        // Programs have memory, too, but no id of a map.
        let id = info.lines().find_map(|line| line.strip_prefix("map_id:"));
        if let Some(id) = id.and_then(|id| id.trim().parse().ok()) {
            maps.insert(id, memory);
        }
    }
    Ok((open, maps))
}

fn count(number: usize) -> f64 {
    u32::try_from(number).map_or(f64::INFINITY, f64::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_read() {
        let metrics = ["flows", "rows", "names"]
            .map(|map| format!("lpm_map_pressure_ratio{{map=\"{map}\"}} 0.25\n"))
            .concat();
        let reading = read(std::process::id(), &metrics).expect("a reading");
        let [memory, descriptors, threads, _, _, flows, rows, names] = reading;
        assert!(memory > 0.0 && descriptors >= 3.0 && threads >= 1.0);
        assert_eq!(format!("{flows} {rows} {names}"), "25 25 25");
        assert!(read(std::process::id(), "").is_err(), "no value is not 0");
    }
}
