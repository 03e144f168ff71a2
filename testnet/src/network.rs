use crate::{Home, NodeProcess};
use anyhow::{Context, Result};
use medanchor_node::{
    Folder, ForeignWitness, Invitee, Plan, PlannedMember, WitnessAddress, found, invite,
};
use std::{
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

/// What network to start.
#[derive(Clone, Debug)]
pub struct NetworkOptions {
    /// The testnet's own program, which nodes and tools are run from.
    pub program: PathBuf,
    /// Hospitals: 1 to 26.
    pub nodes: u8,
    /// Whether a regulator co-signs too.
    pub witness: bool,
    /// Outside witnesses that others run. They are not started with the network.
    pub foreign_witnesses: Vec<ForeignWitness>,
}

/// A network of real nodes on this machine. Its nodes are stopped when it is dropped, unless they are
/// [kept](Network::keep).
#[derive(Debug)]
pub struct Network {
    dir: PathBuf,
    program: PathBuf,
    /// The hospitals' nodes.
    pub nodes: Vec<NodeProcess>,
    /// The regulator's witness.
    pub witness: Option<NodeProcess>,
    keep: bool,
}

impl Network {
    /// Founds a network in `dir`, which must be empty, and starts nothing yet.
    ///
    /// # Errors
    ///
    /// When the folder is in use, or no ports are free.
    pub fn found(dir: &Path, options: &NetworkOptions) -> Result<Self> {
        let letters = ('a'..='z').take(usize::from(options.nodes));
        let names: Vec<String> = letters.map(|letter| format!("hospital-{letter}")).collect();
        anyhow::ensure!(!names.is_empty(), "a network needs a node");
        let mut ports = free_addresses(3 * names.len() + 1)?.into_iter();
        let mut port = || ports.next().context("find a free port");
        let mut members = Vec::new();
        for name in &names {
            members.push(PlannedMember {
                name: name.clone(),
                folder: dir.join(name),
                listen: port()?,
                swarm_listen: port()?,
                log_listen: port()?,
                // Nobody could give one to nodes that are killed and started all day.
                passphrase_file: None,
            });
        }
        let witnesses = match options.witness {
            true => vec![WitnessAddress {
                name: WITNESS.to_owned(),
                address: port()?,
            }],
            false => Vec::new(),
        };
        let cosigners = names.len() + witnesses.len() + options.foreign_witnesses.len();
        let plan = Plan {
            origin: ORIGIN.to_owned(),
            members,
            copies: options.nodes.min(2),
            quorum: safe_quorum(cosigners)?,
            witnesses,
            foreign_witnesses: options.foreign_witnesses.clone(),
        };
        found(&plan, |name| dir.join(name)).context("found the network")?;
        Self::open(dir, &options.program)
    }

    /// The network in `dir`, running or not. `program` is the testnet's own.
    ///
    /// # Errors
    ///
    /// When there is none.
    pub fn open(dir: &Path, program: &Path) -> Result<Self> {
        let dir = std::path::absolute(dir).context("find the folder")?;
        let mut nodes = Vec::new();
        for letter in 'a'..='z' {
            let name = format!("hospital-{letter}");
            let folder = dir.join(&name);
            if Folder::new(&folder).config().exists() {
                nodes.push(NodeProcess::new(&name, &folder, program));
            }
        }
        anyhow::ensure!(
            !nodes.is_empty(),
            "there is no network in `{}`: make one with `cargo testnet up --dir DIR`",
            dir.display()
        );
        let folder = dir.join(WITNESS);
        let has_witness = Folder::new(&folder).config().exists();
        Ok(Self {
            witness: has_witness.then(|| NodeProcess::new(WITNESS, &folder, program)),
            nodes,
            dir,
            program: program.to_owned(),
            keep: false,
        })
    }

    /// Starts every node and the witness that does not run, and waits until a leader answers.
    ///
    /// # Errors
    ///
    /// When a node ends instead of serving.
    pub fn start(&mut self) -> Result<()> {
        for node in self.processes().filter(|node| !node.is_running()) {
            node.start()?;
        }
        self.wait_until_ready()
    }

    /// Waits until a node knows a leader and a checkpoint is published.
    ///
    /// # Errors
    ///
    /// When a node has ended, or none is ready within two minutes.
    pub fn wait_until_ready(&mut self) -> Result<()> {
        let deadline = Instant::now() + READY_WITHIN;
        let home = self.operator(0)?;
        loop {
            for node in self.processes() {
                if let Some(status) = node.ended()? {
                    let log = std::fs::read_to_string(node.log()).unwrap_or_default();
                    let last: Vec<_> = log.lines().rev().take(5).collect();
                    anyhow::bail!("node `{}` ended with {status}: {last:?}", node.name);
                }
            }
            let status = home.run(["status"]);
            // Alarms and missing blocks have a code of their own, and keep nobody from working.
            let ready = status.is_ok_and(|status| {
                let leader = status.json["leader"].as_str();
                leader.is_some_and(|leader| !leader.is_empty())
                    && status.json["published_size"].as_u64() > Some(0)
            });
            if ready {
                return Ok(());
            }
            anyhow::ensure!(
                Instant::now() < deadline,
                "the network is not ready after {} s",
                READY_WITHIN.as_secs()
            );
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// Waits until the hospital with this name answers itself, and knows a leader.
    ///
    /// # Errors
    ///
    /// When it has ended, or does not within two minutes.
    pub fn wait_for(&mut self, name: &str) -> Result<()> {
        let number = self.nodes.iter().position(|node| node.name == name);
        let home = self.operator(number.context("no such hospital")?)?;
        let deadline = Instant::now() + READY_WITHIN;
        loop {
            let node = self.process(name)?;
            anyhow::ensure!(node.ended()?.is_none(), "node `{name}` has ended");
            let status = home.run(["status"])?;
            let leader = status.json["leader"].as_str().unwrap_or_default();
            if status.json["node"] == name && !leader.is_empty() {
                return Ok(());
            }
            anyhow::ensure!(Instant::now() < deadline, "node `{name}` does not answer");
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// Waits until another hospital leads than the one with this name, which need not run.
    ///
    /// # Errors
    ///
    /// When none does within two minutes.
    pub fn wait_for_leader_besides(&self, deposed: &str) -> Result<()> {
        let mut others = self.nodes.iter().filter(|node| node.name != deposed);
        let other = others.next().context("there is no other hospital")?;
        let home = self.operator(0)?;
        let deadline = Instant::now() + READY_WITHIN;
        loop {
            // Of it alone: nobody waits for an answer of the one that does not run.
            let status = home.run(["--node", &other.name, "status"])?;
            let leader = status.json["leader"].as_str().unwrap_or_default();
            if !leader.is_empty() && leader != deposed {
                return Ok(());
            }
            anyhow::ensure!(
                Instant::now() < deadline,
                "no hospital leads in the place of `{deposed}` after {} s",
                READY_WITHIN.as_secs()
            );
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// Stops every node and the witness.
    ///
    /// # Errors
    ///
    /// When one cannot be stopped.
    pub fn stop(&mut self) -> Result<()> {
        let mut result = Ok(());
        for node in self.processes() {
            let stopped = node.stop().map(drop);
            result = result.and(stopped);
        }
        result
    }

    /// Leaves the nodes running when this is dropped.
    pub fn keep(&mut self) {
        self.keep = true;
    }

    /// The node or witness with this name.
    ///
    /// # Errors
    ///
    /// When there is none.
    pub fn process(&mut self, name: &str) -> Result<&mut NodeProcess> {
        self.processes()
            .find(|node| node.name == name)
            .with_context(|| format!("there is no node `{name}`"))
    }

    /// The folder of the network.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Home of the operator of the hospital with this number.
    ///
    /// # Errors
    ///
    /// When there is no such hospital.
    pub fn operator(&self, number: usize) -> Result<Home> {
        let node = self.nodes.get(number).context("no such hospital")?;
        Ok(Home::new(
            Folder::new(node.folder()).operator(),
            &self.program,
        ))
    }

    /// Makes a home for somebody whom the hospital with this number lets in, with a new identity.
    ///
    /// # Errors
    ///
    /// When the home exists, or the hospital does not.
    pub fn invite(&self, number: usize, name: &str) -> Result<Home> {
        let node = self.nodes.get(number).context("no such hospital")?;
        let home = self.dir.join("homes").join(name);
        invite(&Folder::new(node.folder()), Invitee::Guest, name, &home)?;
        let home = Home::new(home, &self.program);
        home.run(["key", "new", "--no-passphrase"])?.success()?;
        Ok(home)
    }

    /// How to use the running network by hand.
    ///
    /// # Errors
    ///
    /// When the network has no hospital.
    pub fn how_to_go_on(&self) -> Result<String> {
        let dir = self.dir.display();
        let home = self.operator(0)?;
        let home = home.path().display();
        Ok(format!(
            "the network runs in {dir}\n\
             \n\
             its status:      cargo medanchor --home {home} status\n\
             its log:         cargo medanchor --home {home} log list\n\
             kill a node:     cargo testnet kill hospital-b --dir {dir}\n\
             start it again:  cargo testnet start hospital-b --dir {dir}\n\
             stop it all:     cargo testnet down --dir {dir}"
        ))
    }

    pub(crate) fn processes(&mut self) -> impl Iterator<Item = &mut NodeProcess> {
        self.nodes.iter_mut().chain(&mut self.witness)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        if !self.keep {
            // Whatever cannot be stopped is named by `stop` when that is called first.
            let _ = self.stop();
        }
    }
}

/// This program.
pub(crate) fn this_program() -> Result<PathBuf> {
    std::env::current_exe().context("find this program")
}

/// Addresses on loopback whose ports are free now.
///
/// # Errors
///
/// When there are not as many.
pub fn free_addresses(count: usize) -> Result<Vec<SocketAddr>> {
    let bind = |_| TcpListener::bind("127.0.0.1:0").context("find a free port");
    let listeners: Vec<TcpListener> = (0..count).map(bind).collect::<Result<_>>()?;
    listeners
        .iter()
        .map(|listener| listener.local_addr().context("find a free port"))
        .collect()
}

/// The smallest quorum of `n` co-signers that is safe against split views when one of them lies.
fn safe_quorum(n: usize) -> Result<u8> {
    let quorum = match n {
        0..=2 => n,
        n => 1 + (n - 1) / 2 + 1,
    };
    u8::try_from(quorum).context("too many nodes")
}

const ORIGIN: &str = "testnet.example/medanchor";
const WITNESS: &str = "regulator";
const READY_WITHIN: Duration = Duration::from_secs(120);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quorum_is_that_of_the_trust_model() {
        let quorums: Vec<u8> = [1, 2, 3, 4, 5].map(|n| safe_quorum(n).unwrap()).into();
        assert_eq!(quorums, [1, 2, 3, 3, 4]);
    }
}
