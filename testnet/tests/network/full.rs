use crate::{
    author::Author,
    away::enrolment,
    stage::{PROGRAM, Stage, until},
};
use medanchor_dag::{Block, Codec};
use std::{
    fs::{self, File, Permissions},
    io::{BufRead, BufReader, Write},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
};

#[test]
fn node_on_a_full_disk_says_so_stops_and_goes_on_when_there_is_room() {
    let mut stage = Stage::start(3);
    stage.stop_cleanly(NAME);
    let folder = stage.network.process(NAME).unwrap().folder().to_owned();
    let Some(disk) = SmallDisk::under(&folder, &stage.path("small")) else {
        eprintln!("NOT RUN: it takes root or user namespaces to mount a small disk");
        return;
    };
    let node = stage.network.process(NAME).unwrap();
    node.set_program(&disk.program);
    node.start().unwrap();
    stage.network.wait_for(NAME).unwrap();
    let author = Author::of(&stage.hospital);

    // Blocks that it has no room for are refused, and nothing else is.
    disk.fill(3 << 20);
    let client = author.session.client.only(NAME).unwrap();
    let blocks = (0..8_u8).map(|n| Block::new(Codec::Raw, vec![n; 1 << 20]).unwrap());
    let refused = author.block_on(client.put(futures::stream::iter(blocks)));
    let refused = format!("{:#}", anyhow::Error::from(refused.unwrap_err()));
    assert!(refused.contains("disk is full"), "{refused}");
    acknowledged(&author, 0);
    let node = stage.network.process(NAME).unwrap();
    assert!(node.ended().unwrap().is_none());

    // Without room for what it has to remember it stops, and the others go on.
    disk.fill(0);
    let mut number = 0;
    let ended = loop {
        number += 1;
        acknowledged(&author, number);
        let node = stage.network.process(NAME).unwrap();
        if let Some(ended) = node.ended().unwrap() {
            break ended;
        }
        assert!(number < 1000, "it goes on without room");
    };
    assert_eq!(ended.code(), Some(74));
    let log = fs::read_to_string(stage.network.process(NAME).unwrap().log()).unwrap();
    let last = log.lines().last().unwrap();
    assert!(last.contains("the disk failed or is full"), "{last}");
    assert!(last.contains(folder.to_str().unwrap()), "{last}");
    acknowledged(&author, number + 1);

    // It does not come back before there is room, and then it does.
    assert!(!run_to_its_end(&mut stage).success());
    disk.make_room();
    stage.network.process(NAME).unwrap().start().unwrap();
    stage.network.wait_until_ready().unwrap();
    acknowledged(&author, number + 2);
    stage.assert_replicas_agree();
}

/// Whoever leads may just have ended: then the same again.
fn acknowledged(author: &Author, number: u128) {
    let enrolment = enrolment(author, number);
    until("it is published", || author.submit(&enrolment).is_ok());
}

fn run_to_its_end(stage: &mut Stage) -> ExitStatus {
    let node = stage.network.process(NAME).unwrap();
    node.start().unwrap();
    let mut ended = None;
    until("it ends", || {
        ended = node.ended().unwrap();
        ended.is_some()
    });
    ended.unwrap()
}

/// A small file system in the place of a folder, for those processes alone that run from its program.
struct SmallDisk {
    /// Keeps it mounted.
    holder: Child,
    /// What it looks like from outside.
    folder: PathBuf,
    /// The testnet's program, where the small disk is.
    program: PathBuf,
}

impl SmallDisk {
    /// With what is in `folder`; `beside` is a new folder for what it takes. `None`: not possible here.
    fn under(folder: &Path, beside: &Path) -> Option<Self> {
        fs::create_dir(beside).unwrap();
        let mut holder = Command::new("unshare")
            .args(["--user", "--map-root-user", "--mount", "sh", "-c"])
            .arg(
                "cp -a \"$1/.\" \"$2/copy\" && mount -t tmpfs -o size=64m tmpfs \"$1\" && \
                 cp -a \"$2/copy/.\" \"$1\" && echo ready && exec sleep infinity",
            )
            .args(["sh".as_ref(), folder.as_os_str(), beside.as_os_str()])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .ok()?;
        let mut said = String::new();
        let output = holder.stdout.take().unwrap();
        BufReader::new(output).read_line(&mut said).unwrap();
        if said != "ready\n" {
            holder.wait().unwrap();
            return None;
        }
        let program = beside.join("program");
        let script = format!(
            "#!/bin/sh\nexec nsenter --target {} --user --mount --preserve-credentials '{PROGRAM}' \"$@\"\n",
            holder.id()
        );
        fs::write(&program, script).unwrap();
        fs::set_permissions(&program, Permissions::from_mode(0o755)).unwrap();
        let root = PathBuf::from(format!("/proc/{}/root", holder.id()));
        Some(Self {
            holder,
            folder: root.join(folder.strip_prefix("/").unwrap()),
            program,
        })
    }

    /// Takes all room but this.
    fn fill(&self, but_bytes: u64) {
        let path = self.folder.join("ballast");
        let mut ballast = File::options()
            .create(true)
            .append(true)
            .open(path)
            .unwrap();
        while ballast.write_all(&[0; 4096]).is_ok() {}
        let taken = ballast.metadata().unwrap().len();
        ballast.set_len(taken.saturating_sub(but_bytes)).unwrap();
    }

    fn make_room(&self) {
        fs::remove_file(self.folder.join("ballast")).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // It has nothing to lose.
        let _ = (self.holder.kill(), self.holder.wait());
    }
}

const NAME: &str = "hospital-c";
