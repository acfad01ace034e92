// SPDX-License-Identifier: GPL-2.0-only
//! What can be run: machines and scenarios, read from `machines.toml` and `scenarios.toml`.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use crate::verdict::{Expectation, whole};

const MACHINES: &str = include_str!("../machines.toml");
const SCENARIOS: &str = include_str!("../scenarios.toml");

/// The builds of Xen: ours and the unpatched ones.
pub const FLAVOURS: &[&str] = &["release", "debug", "stock-release"];

/// What every Xen gets on its command line. Later words win over earlier ones, so a machine, a
/// scenario and `--append` can each say otherwise, in this order.
///
/// `bootscrub=on`: guests check that pages which are new to them hold nobody's old contents, so
/// memory has to be scrubbed; and what Xen scrubs in idle time, as it would by default, takes the
/// time in which it could make superpages, on a slow machine for as long as a test lasts.
pub const XEN_COMMAND_LINE: &str =
    "console=com1 noreboot loglvl=all guest_loglvl=all bootscrub=on dom0=pvh dom0_mem=256M";

/// How long a run may take if its scenario says nothing.
pub const DEFAULT_LIMIT: Duration = Duration::from_secs(120);

/// Where a machine's memory comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RamFrom {
    #[default]
    File,
    Emulator,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Machine {
    pub name: String,
    pub emulator: String,
    pub board: String,
    pub arguments: Vec<String>,
    pub cpus: u32,
    pub memory_mib: u64,
    #[serde(default)]
    pub ram: RamFrom,
    #[serde(default)]
    pub xen: String,
    /// The only builds that tests run under here; all of theirs if empty.
    #[serde(default)]
    pub flavours: Vec<String>,
    pub proves: String,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// Unique; the guest's name if nothing is said.
    #[serde(default)]
    pub name: String,
    pub guest: String,
    /// Added to Xen's command line.
    #[serde(default)]
    pub xen: String,
    pub machines: Vec<String>,
    /// Why it does not run on the others; empty if there are none.
    #[serde(default)]
    pub elsewhere: String,
    pub flavours: Vec<String>,
    /// Seconds after which it is ended.
    pub limit: Option<u64>,
    #[serde(default)]
    pub expect: Expectation,
    /// What it counts are costs, the same in each run: it is run twice, and they are compared.
    #[serde(default)]
    pub figures: bool,
    /// Memory of the machine, where it has to have more than it has for others.
    pub memory_mib: Option<u64>,
    /// It takes long, and runs only if a filter names it (`make -f build.mk stress`).
    #[serde(default)]
    pub apart: bool,
    /// What it shows.
    pub shows: String,
}

impl Machine {
    pub fn runs(&self, flavour: &str) -> bool {
        self.flavours.is_empty() || self.flavours.iter().any(|one| one == flavour)
    }
}

impl Scenario {
    pub fn limit(&self) -> Duration {
        self.limit.map_or(DEFAULT_LIMIT, Duration::from_secs)
    }
}

#[derive(Clone, Debug)]
pub struct Tables {
    pub machines: Vec<Machine>,
    pub scenarios: Vec<Scenario>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct MachineFile {
    machine: Vec<Machine>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ScenarioFile {
    scenario: Vec<Scenario>,
}

impl Tables {
    /// The tables that are built in.
    pub fn built_in() -> Result<Tables> {
        Tables::parse(MACHINES, SCENARIOS)
    }

    pub fn parse(machines: &str, scenarios: &str) -> Result<Tables> {
        let machines = toml::from_str::<MachineFile>(machines)
            .context("machines.toml")?
            .machine;
        let mut scenarios = toml::from_str::<ScenarioFile>(scenarios)
            .context("scenarios.toml")?
            .scenario;
        for scenario in &mut scenarios {
            if scenario.name.is_empty() {
                scenario.name.clone_from(&scenario.guest);
            }
        }

        let tables = Tables {
            machines,
            scenarios,
        };
        tables.check()?;
        Ok(tables)
    }

    fn check(&self) -> Result<()> {
        let mut names = BTreeSet::new();
        for machine in &self.machines {
            ensure!(
                names.insert(&machine.name),
                "the machine {} is there twice",
                machine.name
            );
            crate::emulator::by_name(&machine.emulator)
                .with_context(|| format!("machine {}", machine.name))?;
            for flavour in &machine.flavours {
                check_flavour(flavour).with_context(|| format!("machine {}", machine.name))?;
            }
        }

        let mut names = BTreeSet::new();
        for scenario in &self.scenarios {
            let name = &scenario.name;
            ensure!(names.insert(name), "the scenario {name} is there twice");
            ensure!(
                !scenario.machines.is_empty() && !scenario.flavours.is_empty(),
                "the scenario {name} runs nowhere"
            );
            for machine in &scenario.machines {
                let machine = self
                    .machine(machine)
                    .with_context(|| format!("scenario {name}"))?;
                ensure!(
                    scenario
                        .flavours
                        .iter()
                        .any(|flavour| machine.runs(flavour)),
                    "the scenario {name} runs under no build on the machine {}",
                    machine.name
                );
            }
            let others = self
                .machines
                .iter()
                .any(|machine| !scenario.machines.contains(&machine.name));
            ensure!(
                others != scenario.elsewhere.is_empty(),
                "the scenario {name} has to say why it does not run on the other machines \
                 (elsewhere = \"...\"), if there are any"
            );
            for flavour in &scenario.flavours {
                check_flavour(flavour).with_context(|| format!("scenario {name}"))?;
            }
            let allowed = scenario.expect.allow.iter().map(|allowed| &allowed.line);
            let said = &scenario.expect.says;
            for line in allowed.chain(said).chain(&scenario.expect.xen_says) {
                whole(line).with_context(|| format!("scenario {name}"))?;
            }
        }
        Ok(())
    }

    pub fn machine(&self, name: &str) -> Result<&Machine> {
        self.machines
            .iter()
            .find(|machine| machine.name == name)
            .with_context(|| {
                let names: Vec<_> = self.machines.iter().map(|m| m.name.as_str()).collect();
                format!("there is no machine {name}: there are {}", names.join(", "))
            })
    }
}

pub fn check_flavour(name: &str) -> Result<()> {
    ensure!(
        FLAVOURS.contains(&name),
        "there is no flavour {name}: there are {}",
        FLAVOURS.join(", ")
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_built_in_tables_are_sound() {
        let tables = Tables::built_in().unwrap();
        assert!(!tables.machines.is_empty() && !tables.scenarios.is_empty());
    }

    #[test]
    fn unsound_tables_are_refused() {
        let scenario = |lines: &str| {
            format!(
                "[[scenario]]\nguest = \"g\"\nshows = \"\"\nelsewhere = \"no\"\n\
                 flavours = [\"debug\"]\n{lines}\n"
            )
        };
        let good = scenario("machines = [\"qemu-npt\"]");
        Tables::parse(MACHINES, &good).unwrap();

        for (bad, complaint) in [
            (scenario("machines = [\"vax\"]"), "there is no machine vax"),
            (scenario("machines = []"), "runs nowhere"),
            (
                good.replace("elsewhere = \"no\"", ""),
                "why it does not run on the other machines",
            ),
            (
                good.replace("debug", "debugg"),
                "there is no flavour debugg",
            ),
            (format!("{good}{good}"), "there twice"),
            (format!("{good}expected = 1\n"), "unknown field"),
            (
                format!("{good}expect.results = \"SKIP\"\n"),
                "unknown field",
            ),
            (format!("{good}expect.result = \"OK\"\n"), "unknown variant"),
            (
                format!("{good}expect.allow = [{{ line = \"(\", because = \"\" }}]\n"),
                "unclosed group",
            ),
        ] {
            let error = format!("{:#}", Tables::parse(MACHINES, &bad).unwrap_err());
            assert!(error.contains(complaint), "{bad}\n{error}");
        }
        let twice = format!("{MACHINES}{MACHINES}");
        assert!(Tables::parse(&twice, &good).is_err());
        let odd = MACHINES.replace("emulator = \"qemu\"", "emulator = \"abacus\"");
        assert!(Tables::parse(&odd, &good).is_err());

        let only = |flavour: &str| {
            let text = format!("name = \"qemu-npt\"\nflavours = [\"{flavour}\"]\n");
            Tables::parse(&MACHINES.replace("name = \"qemu-npt\"\n", &text), &good)
        };
        assert!(
            only("debug")
                .unwrap()
                .machine("qemu-npt")
                .unwrap()
                .runs("debug")
        );
        let error = format!("{:#}", only("release").unwrap_err());
        assert!(
            error.contains("runs under no build on the machine"),
            "{error}"
        );
        assert!(only("fast").is_err());
    }
}
