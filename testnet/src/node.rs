use anyhow::{Context, Result};
use medanchor_node::{Config, Folder};
use std::{
    ffi::{OsStr, OsString},
    fs::{self, File},
    os::unix::process::{CommandExt, ExitStatusExt},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

/// A node or witness as a process.
#[derive(Debug)]
pub struct NodeProcess {
    /// Its short name.
    pub name: String,
    folder: PathBuf,
    program: PathBuf,
    environment: Vec<(OsString, OsString)>,
    child: Option<Child>,
}

impl NodeProcess {
    /// The node with this data folder, not running. `program` is the testnet's own.
    pub fn new(name: &str, folder: &Path, program: &Path) -> Self {
        Self {
            name: name.to_owned(),
            folder: folder.to_owned(),
            program: program.to_owned(),
            environment: Vec::new(),
            child: None,
        }
    }

    /// Its data folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Changes its config, before it starts.
    ///
    /// # Errors
    ///
    /// When the file cannot be read or written.
    pub fn configure(&self, change: impl FnOnce(&mut Config)) -> Result<()> {
        let path = Folder::new(&self.folder).config();
        let mut config = Config::open(&path)?;
        change(&mut config);
        fs::write(path, config.to_text()?).context("write the config")
    }

    /// Its process, while it runs.
    pub fn pid(&self) -> Option<u32> {
        running_pid(&self.folder)
    }

    /// What it has written to its log.
    pub fn log(&self) -> PathBuf {
        self.folder.join("medanchord.log")
    }

    /// Whether it runs, started by this process or by another.
    pub fn is_running(&self) -> bool {
        self.pid().is_some()
    }

    /// Runs it from another program when it is started next.
    pub fn set_program(&mut self, program: &Path) {
        program.clone_into(&mut self.program);
    }

    /// Gives it these environment variables when it is started next.
    pub(crate) fn set_environment<'v>(
        &mut self,
        variables: impl IntoIterator<Item = (&'v str, &'v OsStr)>,
    ) {
        let owned = |(name, value): (&str, &OsStr)| (name.into(), value.to_owned());
        self.environment = variables.into_iter().map(owned).collect();
    }

    /// Starts it. It goes on when this process ends, unless it is stopped first.
    ///
    /// # Errors
    ///
    /// When it runs already or cannot be started.
    pub fn start(&mut self) -> Result<()> {
        anyhow::ensure!(!self.is_running(), "node `{}` runs already", self.name);
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.log())
            .context("open the node's log")?;
        let mut child = Command::new(&self.program)
            .arg("medanchord")
            .arg("--data")
            .arg(&self.folder)
            .env_remove(PASSPHRASE_FILE)
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            // A group of its own: Ctrl-C reaches this process alone, which then stops its nodes in order.
            .process_group(0)
            .spawn()
            .with_context(|| format!("start node `{}`", self.name))?;
        fs::write(pid_file(&self.folder), child.id().to_string()).context("write the pid file")?;
        // It may run a moment before the kernel says what: until then nobody would find it.
        while running_pid(&self.folder).is_none() {
            if child.try_wait().context("wait for the node")?.is_some() {
                break;
            }
            thread::sleep(Duration::from_millis(1));
        }
        self.child = Some(child);
        Ok(())
    }

    /// Kills it at once, as power loss would (SIGKILL).
    ///
    /// # Errors
    ///
    /// When it cannot be killed.
    pub fn kill(&mut self) -> Result<()> {
        self.signal("KILL")?;
        self.wait(Duration::from_secs(10)).map(drop)
    }

    /// Lets it run no further (SIGSTOP), and not know it.
    ///
    /// # Errors
    ///
    /// When it cannot be signalled.
    pub fn pause(&self) -> Result<()> {
        self.signal("STOP")
    }

    /// Lets it go on (SIGCONT).
    ///
    /// # Errors
    ///
    /// When it cannot be signalled.
    pub fn resume(&self) -> Result<()> {
        self.signal("CONT")
    }

    /// Asks it to stop (SIGTERM), and kills it when it does not within half a minute.
    ///
    /// # Errors
    ///
    /// When it cannot be stopped.
    pub fn stop(&mut self) -> Result<Option<ExitStatus>> {
        self.signal("TERM")?;
        match self.wait(Duration::from_secs(30)) {
            Ok(status) => Ok(status),
            Err(_) => {
                self.signal("KILL")?;
                self.wait(Duration::from_secs(10))
            }
        }
    }

    /// How it ended, if it has.
    ///
    /// # Errors
    ///
    /// When the process cannot be asked.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        match &mut self.child {
            Some(child) => child.try_wait().context("ask for the node's status"),
            None if running_pid(&self.folder).is_some() => Ok(None),
            None => Ok(Some(ExitStatus::from_raw(0))),
        }
    }

    fn signal(&self, signal: &str) -> Result<()> {
        let Some(pid) = running_pid(&self.folder) else {
            return Ok(());
        };
        let status = Command::new("kill")
            .args([&format!("-{signal}"), &pid.to_string()])
            .status()
            .context("run kill")?;
        anyhow::ensure!(status.success(), "signal node `{}`", self.name);
        Ok(())
    }

    fn wait(&mut self, at_most: Duration) -> Result<Option<ExitStatus>> {
        let deadline = Instant::now() + at_most;
        while Instant::now() < deadline {
            let ended = match &mut self.child {
                Some(child) => child.try_wait().context("wait for the node")?,
                None => running_pid(&self.folder)
                    .is_none()
                    .then(|| ExitStatus::from_raw(0)),
            };
            if ended.is_some() {
                self.child = None;
                // It is gone; a file that cannot be removed only says so a second time.
                let _ = fs::remove_file(pid_file(&self.folder));
                return Ok(ended);
            }
            thread::sleep(Duration::from_millis(10));
        }
        anyhow::bail!("node `{}` has not stopped", self.name)
    }
}

/// The process that runs on this data folder, when it is one of ours and alive.
fn running_pid(folder: &Path) -> Option<u32> {
    let pid: u32 = fs::read_to_string(pid_file(folder)).ok()?.parse().ok()?;
    let command = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let own = folder.to_str()?.as_bytes();
    let names_folder = command.split(|byte| *byte == 0).any(|part| part == own);
    names_folder.then_some(pid)
}

fn pid_file(folder: &Path) -> PathBuf {
    folder.join("medanchord.pid")
}

/// Names a passphrase of whoever runs this, which nobody here has.
pub(crate) const PASSPHRASE_FILE: &str = "MEDANCHOR_PASSPHRASE_FILE";
