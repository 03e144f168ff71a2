//! One large file, with the memory of who puts it and of who gets it.

use crate::stage::{Stage, configure, done, put_arguments};
use medanchor_testnet::Network;
use serde_json::Value;
use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::{Command, Stdio},
    thread,
    time::Duration,
};

/// Its holders take longer than any one call lasts, and no node gets it that need not hold it.
#[test]
fn large_file_over_a_slow_link_is_waited_for_and_is_held_where_it_must_be() {
    let stage = Stage::start_with(3, |network| slow_swarm(network, SLOW_BYTES_PER_SECOND));
    let status = put_and_get(&stage, 64 << 20);
    let holders = status["nodes"].as_array().unwrap().iter();
    let holders = holders.filter(|node| node["holder"] == true);
    let holders: BTreeSet<&str> = holders.map(|node| node["node"].as_str().unwrap()).collect();
    assert_eq!(holders.len(), 2);
    let having = stage.network.nodes.iter();
    let having = having.filter(|node| bytes_below(&node.folder().join("blocks")) > 60 << 20);
    let having: BTreeSet<&str> = having.map(|node| node.name.as_str()).collect();
    // The first is the node that took it, which has it for the others to fetch, whether or not it is to hold it.
    let first = stage.network.nodes[0].name.as_str();
    assert_eq!(having, &holders | &BTreeSet::from([first]));
}

/// It is larger than what a process may have, so that none can have it whole.
#[test]
fn file_that_is_larger_than_the_memory_allowed_is_put_and_got() {
    let stage = Stage::start(3);
    put_and_get(&stage, MAX_BYTES + (64 << 20));
}

#[test]
fn folder_of_thousands_of_files_takes_little_memory() {
    let stage = Stage::start(3);
    let device = stage.device("gateway");
    let folder = stage.path("ward7");
    for number in 0..FILES {
        let sub = folder.join((number % 7).to_string());
        fs::create_dir_all(&sub).unwrap();
        fs::write(sub.join(number.to_string()), number.to_string()).unwrap();
    }
    let put = device.command(put_arguments(&folder, &stage.custody));
    let (put, peak) = run_and_measure(put);
    assert_eq!(put["stored"].as_u64(), Some(FILES), "{put}");
    eprintln!(
        "{FILES} files: put took at most {} MiB of memory",
        peak >> 20
    );
    assert!(peak < MAX_BYTES, "{} MiB", peak >> 20);
}

/// `MEDANCHOR_LARGE_MIB=4096 cargo test -p medanchor-testnet --test network large -- --ignored --nocapture`
#[test]
#[ignore = "many GB, on demand"]
fn large_file_as_large_as_you_like() {
    let mib = std::env::var("MEDANCHOR_LARGE_MIB").ok();
    let mib: u64 = mib.map_or(512, |mib| mib.parse().unwrap());
    let stage = Stage::start(3);
    put_and_get(&stage, mib << 20);
}

/// What is known of the record then.
fn put_and_get(stage: &Stage, size: u64) -> Value {
    let device = stage.device("scanner");
    let file = stage.path("large");
    write_large(&file, size);
    let put = device.command(put_arguments(&file, &stage.custody));
    let (stored, put_peak) = run_and_measure(put);
    let record = stored["record"].as_str().unwrap();
    assert_eq!(stored["size_bytes"].as_u64(), Some(size));
    let copy = stage.path("copy");
    let arguments = ["get", record, "--purpose", "TREAT", "-o"];
    let mut get = stage.clinician.command(arguments);
    get.arg(&copy);
    let (_, get_peak) = run_and_measure(get);
    assert!(is_same(&file, &copy));
    eprintln!(
        "{} MiB: put took at most {} MiB of memory, get {} MiB",
        size >> 20,
        put_peak >> 20,
        get_peak >> 20
    );
    for peak in [put_peak, get_peak] {
        assert!(peak < MAX_BYTES, "{} MiB", peak >> 20);
    }
    let status = done(stage.hospital.run(["status", record]));
    assert_eq!(status.json["ok"], true, "{}", status.json);
    status.json
}

/// What a command printed, and the most anonymous memory that it had.
fn run_and_measure(mut command: Command) -> (Value, u64) {
    let command = command.stdout(Stdio::piped()).stderr(Stdio::inherit());
    let mut child = command.spawn().unwrap();
    let status = format!("/proc/{}/status", child.id());
    let mut peak = 0;
    while child.try_wait().unwrap().is_none() {
        let text = fs::read_to_string(&status).unwrap_or_default();
        let anonymous = text.lines().find_map(|line| line.strip_prefix("RssAnon:"));
        let kib = anonymous.and_then(|kib| kib.trim().trim_end_matches(" kB").parse().ok());
        peak = peak.max(kib.unwrap_or(0_u64) << 10);
        thread::sleep(Duration::from_millis(20));
    }
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert!(peak > 0, "it was measured");
    (serde_json::from_slice(&output.stdout).unwrap(), peak)
}

/// No two of its blocks are the same.
fn write_large(path: &Path, size: u64) {
    let mut file = File::create(path).unwrap();
    let mut block = vec![0x5a; 1 << 20];
    for number in 0..size >> 20 {
        for part in block.chunks_mut(1 << 16) {
            part[..8].copy_from_slice(&number.to_be_bytes());
        }
        file.write_all(&block).unwrap();
    }
}

fn is_same(one: &Path, other: &Path) -> bool {
    let (mut one, mut other) = (File::open(one).unwrap(), File::open(other).unwrap());
    let len = one.metadata().unwrap().len();
    let (mut a, mut b) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    len == other.metadata().unwrap().len()
        && (0..len >> 20).all(|_| {
            one.read_exact(&mut a).unwrap();
            other.read_exact(&mut b).unwrap();
            a == b
        })
}

fn bytes_below(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let sizes = entries.map(|entry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => bytes_below(&entry.path()),
        Ok(metadata) => metadata.len(),
        Err(_) => 0,
    });
    sizes.sum()
}

/// The nodes reach each other's swarm at this rate.
fn slow_swarm(network: &Network, bytes_per_second: u64) {
    configure(network, |config| {
        for member in &mut config.members {
            member.swarm = slow_link(member.swarm, bytes_per_second);
        }
    });
}

/// An address that leads to another one, slowly.
fn slow_link(to: SocketAddr, bytes_per_second: u64) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for from in listener.incoming().flatten() {
            let Ok(to) = TcpStream::connect(to) else {
                continue;
            };
            for (from, to) in [(&from, &to), (&to, &from)] {
                let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                thread::spawn(move || trickle(from, to, bytes_per_second));
            }
        }
    });
    address
}

fn trickle(mut from: TcpStream, mut to: TcpStream, bytes_per_second: u64) {
    let mut buffer = [0; 1 << 14];
    while let Ok(read @ 1..) = from.read(&mut buffer) {
        let time = Duration::from_secs(read as u64) / u32::try_from(bytes_per_second).unwrap();
        thread::sleep(time);
        if to.write_all(&buffer[..read]).is_err() {
            break;
        }
    }
    for stream in [from, to] {
        // The other direction may have closed it.
        let _ = stream.shutdown(std::net::Shutdown::Both);
    }
}

/// 64 MiB take longer than a call lasts.
const SLOW_BYTES_PER_SECOND: u64 = 1_600_000;
const FILES: u64 = 2000;
const MAX_BYTES: u64 = 256 << 20;
