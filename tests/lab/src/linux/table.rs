// SPDX-License-Identifier: GPL-2.0-only
//! What can be run: `linux/scenarios.toml`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use regex::Regex;
use serde::Deserialize;

use crate::tables::check_flavour;
use crate::verdict::{Expectation, whole};

const TABLE: &str = include_str!("../../linux/scenarios.toml");

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Machine {
    pub name: String,
    pub cpus: u32,
    pub memory_mib: u64,
    pub dom0_mib: u64,
    pub cpu: String,
    /// QEMU's name for the board.
    #[serde(default = "pc")]
    pub board: String,
    pub arguments: Vec<String>,
    /// What Xen's command line needs on this machine.
    #[serde(default)]
    pub xen: String,
}

fn pc() -> String {
    "pc".to_owned()
}

/// What has to hold where a script looks at a guest.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LookWish {
    /// A regular expression for the tag of the look as a whole.
    pub tag: String,
    /// Regions that are one entry, in percent of those that have memory, at least; with the series.
    #[serde(default)]
    pub whole: u8,
    /// The same, in percent of those that are memory only.
    #[serde(default)]
    pub full: u8,
    /// Every region that is not has a reason in the trace; with the series.
    #[serde(default)]
    pub healed: bool,
    /// Regions of memory only that are not, at least; with the series.
    #[serde(default)]
    pub broken: usize,
    /// Entries of 1 GiB, at least.
    #[serde(default)]
    pub gib: u64,
    /// Refusals that were counted, at least; with the series.
    #[serde(default)]
    pub reasons: BTreeMap<String, u64>,
    /// Regions that are one entry, in percent, at most; on an unpatched Xen.
    pub before: Option<u8>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Wishes {
    pub looks: Vec<LookWish>,
    /// As for the test guests.
    pub console: Expectation,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    pub name: String,
    pub machine: String,
    pub flavours: Vec<String>,
    #[serde(default)]
    pub before: Vec<String>,
    /// The builds for CI.
    #[serde(default)]
    pub ci: Vec<String>,
    #[serde(default)]
    pub xen: String,
    pub limit: u64,
    pub long_limit: Option<u64>,
    #[serde(default)]
    pub short: BTreeMap<String, String>,
    #[serde(default)]
    pub long: BTreeMap<String, String>,
    #[serde(default)]
    pub expect: Wishes,
    pub shows: String,
    /// Where its script is.
    #[serde(skip)]
    pub script: PathBuf,
}

impl Scenario {
    pub fn limit(&self, long: bool) -> Duration {
        let long_limit = self.long_limit.filter(|_| long);
        Duration::from_secs(long_limit.unwrap_or(self.limit))
    }

    /// Something that is not in the table: a script of one's own, on the first machine.
    fn of_script(path: &Path, machine: &str) -> Result<Scenario> {
        let name = path.file_stem().context("a script has a name")?;
        Ok(Scenario {
            name: name.to_string_lossy().into_owned(),
            machine: machine.to_owned(),
            flavours: vec!["release".to_owned()],
            before: vec![],
            ci: vec![],
            xen: String::new(),
            limit: 600,
            long_limit: None,
            short: BTreeMap::new(),
            long: BTreeMap::new(),
            expect: Wishes::default(),
            shows: String::new(),
            script: path.to_owned(),
        })
    }
}

#[derive(Clone, Debug)]
pub struct Table {
    pub machines: Vec<Machine>,
    pub scenarios: Vec<Scenario>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TableFile {
    machine: Vec<Machine>,
    scenario: Vec<Scenario>,
}

impl Table {
    /// The table that is built in, of scripts in the source.
    pub fn built_in() -> Result<Table> {
        Table::parse(TABLE)
    }

    fn parse(text: &str) -> Result<Table> {
        let file: TableFile = toml::from_str(text).context("linux/scenarios.toml")?;
        let mut table = Table {
            machines: file.machine,
            scenarios: file.scenario,
        };
        for scenario in &mut table.scenarios {
            scenario.script = source().join(format!("scenarios/{}.sh", scenario.name));
        }
        table.check()?;
        Ok(table)
    }

    fn check(&self) -> Result<()> {
        ensure!(!self.machines.is_empty(), "no machine");
        let mut names = BTreeSet::new();
        for scenario in &self.scenarios {
            let context = || format!("scenario {}", scenario.name);
            ensure!(names.insert(&scenario.name), "{} is there twice", context());
            self.machine(&scenario.machine).with_context(context)?;
            for flavour in scenario
                .flavours
                .iter()
                .chain(&scenario.before)
                .chain(&scenario.ci)
            {
                check_flavour(flavour).with_context(context)?;
            }
            for look in &scenario.expect.looks {
                whole(&look.tag).with_context(context)?;
            }
        }
        Ok(())
    }

    pub fn machine(&self, name: &str) -> Result<&Machine> {
        self.machines
            .iter()
            .find(|machine| machine.name == name)
            .with_context(|| format!("there is no machine {name} for Linux"))
    }

    /// A scenario by its name, or a script by its path.
    pub fn scenario(&self, name: &str) -> Result<Scenario> {
        if let Some(scenario) = self.scenarios.iter().find(|s| s.name == name) {
            return Ok(scenario.clone());
        }
        let path = Path::new(name);
        ensure!(
            path.is_file(),
            "there is neither a scenario nor a script {name}: see `lab linux list`"
        );
        let path = fs::canonicalize(path)?;
        Scenario::of_script(&path, &self.machines[0].name)
    }

    /// All scenarios of which the name matches.
    pub fn matching(&self, filter: &Regex) -> Vec<Scenario> {
        let all = self.scenarios.iter();
        all.filter(|s| filter.is_match(&s.name)).cloned().collect()
    }
}

/// Where scripts are: read when they are needed, so that one can be changed without building.
pub fn source() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("linux")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_scenario_has_its_script() {
        let table = Table::built_in().unwrap();
        for scenario in &table.scenarios {
            assert!(scenario.script.is_file(), "{}", scenario.script.display());
        }
        for entry in fs::read_dir(source().join("scenarios")).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            let name = name.strip_suffix(".sh").expect("a script");
            assert!(table.scenario(name).is_ok(), "{name} is in no table");
        }
        assert!(table.scenario("nothing-of-the-kind").is_err());
    }
}
