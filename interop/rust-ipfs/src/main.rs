//! Runs rust-ipfs in a private network: serves blocks, or pins a DAG. It takes the options of
//! `testnet/foreign/kubo_pin.py`, and `--window`, and says the same.

use anyhow::{Context, Result, bail};
use clap::Parser;
use connexa::prelude::transport::pnet::PreSharedKey;
use futures::TryStreamExt;
use ipld_core::cid::Cid;
use rust_ipfs::{Block, Ipfs, Keypair, Multiaddr, builder::DefaultIpfsBuilder};
use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};
use tokio::{
    io::AsyncReadExt,
    time::{error::Elapsed, sleep, timeout},
};

/// Runs rust-ipfs in a private network: serves blocks, or pins a DAG.
#[derive(Parser)]
struct Args {
    /// Folder for the repository.
    #[arg(long)]
    repo: PathBuf,
    /// The private network's key file.
    #[arg(long)]
    swarm_key: PathBuf,
    /// TCP port on 127.0.0.1; 0: any.
    #[arg(long, value_name = "PORT", default_value_t = 0)]
    listen: u16,
    /// For everything but serving.
    #[arg(long, value_name = "SECONDS", default_value_t = 60.0)]
    deadline: f64,
    /// Put these block files into the repository first.
    #[arg(long, value_name = "FOLDER")]
    add: Option<PathBuf>,
    /// A node to fetch from, with its /p2p/ id.
    #[arg(long, value_name = "MULTIADDR")]
    connect: Vec<Multiaddr>,
    /// Root of the DAG to pin.
    #[arg(long)]
    cid: Option<Cid>,
    /// Fetch so many blocks at a time; without it, as rust-ipfs does when it pins.
    #[arg(long, value_name = "BLOCKS", value_parser = clap::value_parser!(u16).range(1..))]
    window: Option<u16>,
    /// Serve blocks until standard input closes.
    #[arg(long)]
    serve: bool,
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(&Args::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.is::<Elapsed>() => {
            eprintln!("unavailable: {error:#}");
            ExitCode::from(UNAVAILABLE)
        }
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(args: &Args) -> Result<()> {
    let key = identity(&args.repo).context("read or make the identity")?;
    let peer = key.public().to_peer_id();
    println!("peer {peer}");
    if args.add.is_none() && args.cid.is_none() && !args.serve {
        return Ok(());
    }
    let limit = Duration::from_secs_f64(args.deadline);
    let (node, address) = timeout(limit, prepare(args, &key))
        .await
        .with_context(|| format!("not done within {limit:?}"))??;
    if args.serve {
        println!("serving {address}/p2p/{peer}");
        tokio::io::stdin().read_to_end(&mut Vec::new()).await?;
    }
    node.exit_daemon().await;
    Ok(())
}

/// The same key each time.
fn identity(repo: &Path) -> Result<Keypair> {
    fs::create_dir_all(repo)?;
    let path = repo.join("identity");
    if !path.exists() {
        fs::write(&path, Keypair::generate_ed25519().to_protobuf_encoding()?)?;
    }
    Ok(Keypair::from_protobuf_encoding(&fs::read(path)?)?)
}

/// A node that has done all but serve, and where it listens.
async fn prepare(args: &Args, key: &Keypair) -> Result<(Ipfs, Multiaddr)> {
    let node = start(args, key).await.context("start rust-ipfs")?;
    let address = listening(&node).await?;
    if let Some(folder) = &args.add {
        add(&node, folder).await.context("add blocks")?;
    }
    for address in &args.connect {
        let connecting = node.connect(address.clone()).await;
        connecting.with_context(|| format!("connect to `{address}`"))?;
    }
    if let Some(root) = args.cid {
        let (blocks, bytes) = pin(&node, root, args.window).await?;
        println!("pinned {root}: {blocks} blocks, {bytes} bytes, every hash checked");
    }
    Ok((node, address))
}

/// TCP with the pre-shared key alone, and nothing that finds peers or is found.
async fn start(args: &Args, key: &Keypair) -> Result<Ipfs> {
    let swarm_key: PreSharedKey = fs::read_to_string(&args.swarm_key)?.parse()?;
    DefaultIpfsBuilder::with_keypair(key)?
        .with_identify(Default::default())
        .with_ping(Default::default())
        .with_bitswap()
        .enable_tcp()
        .enable_pnet(swarm_key)
        .set_listening_addrs(vec![format!("/ip4/127.0.0.1/tcp/{}", args.listen).parse()?])
        .set_path(&args.repo)
        .start()
        .await
}

/// Where it listens, which is some time after it started.
async fn listening(node: &Ipfs) -> Result<Multiaddr> {
    loop {
        if let Some(address) = node.listening_addresses().await?.pop() {
            return Ok(address);
        }
        sleep(Duration::from_millis(10)).await;
    }
}

/// Puts block files, named by their CIDs, into the repository.
async fn add(node: &Ipfs, folder: &Path) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else {
            bail!("a file's name is not text");
        };
        let cid: Cid = name
            .parse()
            .with_context(|| format!("`{name}` is no CID"))?;
        node.put_block(&Block::new(cid, fs::read(&path)?)?).await?;
    }
    Ok(())
}

/// Pins a DAG, and then reads it: how many blocks and bytes it has.
async fn pin(node: &Ipfs, root: Cid, window: Option<u16>) -> Result<(usize, usize)> {
    if let Some(window) = window {
        walk(node, root, window, Source::Network)
            .await
            .context("fetch the DAG")?;
    }
    // Without `exit_on_error` a DAG that lacks a block counts as pinned.
    let pinning = node.insert_pin(root).recursive().exit_on_error();
    pinning
        .set_local(window.is_some())
        .await
        .context("pin the DAG")?;
    walk(node, root, READING, Source::Repository)
        .await
        .context("read the DAG")
}

#[derive(Clone, Copy, PartialEq)]
enum Source {
    Network,
    Repository,
}

/// Walks a DAG level by level, `window` blocks at a time.
async fn walk(node: &Ipfs, root: Cid, window: u16, source: Source) -> Result<(usize, usize)> {
    let mut seen = BTreeSet::from([root]);
    let mut level = vec![root];
    let (mut count, mut bytes) = (0, 0);
    while !level.is_empty() {
        let mut next = Vec::new();
        for cids in level.chunks(window.into()) {
            let mut blocks = node
                .repo()
                .get_blocks(cids)
                .set_local(source == Source::Repository);
            while let Some(block) = blocks.try_next().await? {
                block.verify()?;
                count += 1;
                bytes += block.data().len();
                let mut links = Vec::new();
                if block.cid().codec() == DAG_CBOR {
                    block.references(&mut links)?;
                }
                next.extend(links.into_iter().filter(|link| seen.insert(*link)));
            }
        }
        level = next;
    }
    Ok((count, bytes))
}

const UNAVAILABLE: u8 = 5;
const READING: u16 = 64;
const DAG_CBOR: u64 = 0x71;
