//! How many keys are released at once, with consent and a second factor, beside what HPKE alone allows; and that a release
//! costs the same whatever the payload weighs.

use crate::{
    arguments::Arguments,
    clinic::{Clinic, connect_as, enrol, session, statement},
    cpu,
    grants::request,
    hpke::rewrapped,
    interrupt::Interrupt,
    payload::{KIB, MIB, size_name},
    report::Report,
    samples::{Samples, count},
};
use anyhow::{Context, Result};
use medanchor_anchor::{AccessRequest, Body, PrincipalKind, SignedStatement, Strength};
use medanchor_cli::{ConsentOptions, OwnKeys, Session, Uses, operations};
use medanchor_dag::Cid;
use medanchor_testnet::{Authenticator, Home};
use std::{fs, path::Path, time::Instant};

/// Measures it.
pub(crate) async fn measure(
    arguments: &Arguments,
    clinic: &Clinic,
    dir: &Path,
    report: &mut Report,
    interrupt: &Interrupt,
) -> Result<()> {
    report.begin(
        "releases",
        "keys of single records, released under consent to a researcher with a second factor, each with its leaf and a \
         witnessed receipt",
    );
    let limit = hpke_alone(arguments)?;
    report.median("HPKE open and seal alone, one thread", "per s", &limit);
    let study = Study::prepare(clinic, dir).await?;
    together(arguments, clinic, &study, report, interrupt).await?;
    by_size(arguments, clinic, &study, report, interrupt).await
}

/// Re-wraps per second of one thread.
fn hpke_alone(arguments: &Arguments) -> Result<Samples> {
    let mut rates = Samples::default();
    let each = arguments.choose(5000, 200);
    for _ in 0..5 {
        rates.push(count(each) / rewrapped(each)?);
    }
    Ok(rates)
}

/// Everybody at once.
async fn together(
    arguments: &Arguments,
    clinic: &Clinic,
    study: &Study,
    report: &mut Report,
    interrupt: &Interrupt,
) -> Result<()> {
    let record = clinic.anchored(KIB).await?;
    let (rounds, each) = arguments.choose((3, 45), (1, 3));
    let mut clients = Vec::with_capacity(CLIENTS);
    for number in 0..CLIENTS {
        clients.push(connect_as(clinic, &study.researcher, number).await?);
    }
    let pids: Vec<u32> = clinic.pids().collect();
    let (mut rates, mut cpu_ms, mut ms) = Default::default();
    for _ in 0..rounds {
        interrupt.check()?;
        let requests = (0..CLIENTS).map(|_| study.requests(record, each));
        let requests = requests.collect::<Result<Vec<_>>>()?;
        let before = cpu::of_processes(&pids)?;
        let began = Instant::now();
        let released = clients
            .iter()
            .zip(requests)
            .map(|(client, requests)| async move {
                let mut ms = Vec::with_capacity(requests.len());
                for signed in requests {
                    ms.push(request(client, &signed).await?);
                }
                anyhow::Ok(ms)
            });
        let latencies = futures::future::try_join_all(released).await?.concat();
        let took = began.elapsed().as_secs_f64();
        let used = cpu::of_processes(&pids)?.saturating_sub(before);
        let released = count(CLIENTS * each);
        Samples::push(&mut rates, released / took);
        Samples::push(&mut cpu_ms, used.as_secs_f64() * 1000.0 / released);
        latencies
            .into_iter()
            .for_each(|latency| Samples::push(&mut ms, latency));
    }
    report.median(&format!("{CLIENTS} clients"), "per s", &rates);
    report.latency(&format!("{CLIENTS} clients, a call"), &ms);
    report.median(
        "processor time of all nodes and the witness, a release",
        "ms",
        &cpu_ms,
    );
    Ok(())
}

/// One client, for a small and a large payload in turns.
async fn by_size(
    arguments: &Arguments,
    clinic: &Clinic,
    study: &Study,
    report: &mut Report,
    interrupt: &Interrupt,
) -> Result<()> {
    let sizes = arguments.choose([KIB, 256 * MIB], [KIB, MIB]);
    let mut records = Vec::new();
    for size in sizes {
        records.push(clinic.anchored(size).await?);
    }
    let client = connect_as(clinic, &study.researcher, 0).await?;
    let mut ms = [Samples::default(), Samples::default()];
    for _ in 0..arguments.choose(50, 5) {
        interrupt.check()?;
        for (record, ms) in records.iter().zip(&mut ms) {
            for signed in study.requests(*record, 1)? {
                ms.push(request(&client, &signed).await?);
            }
        }
    }
    for (size, ms) in sizes.iter().zip(&ms) {
        report.latency(&format!("one client, a record of {}", size_name(*size)), ms);
    }
    Ok(())
}

/// A researcher with a second factor that counts for five minutes, and consent; policies ask for both.
struct Study {
    researcher: Home,
    origin: String,
    keys: OwnKeys,
    second_factor: SignedStatement,
}

impl Study {
    async fn prepare(clinic: &Clinic, dir: &Path) -> Result<Self> {
        let operator = clinic.operator();
        ask_for_second_factors(clinic, dir).await?;
        let researcher = clinic.invite("researcher")?;
        let session = session(&researcher)?;
        let keys = session.home.own_keys()?;
        enrol(operator, keys.did(), PrincipalKind::Person, "researcher").await?;
        let options = ConsentOptions {
            custody: clinic.custody,
            replace: None,
            deny: false,
            uses: Uses {
                parties: vec![keys.did()],
                purposes: vec![PURPOSE.to_owned()],
                ..Uses::default()
            },
            except: Vec::new(),
            days: None,
            document: None,
        };
        operations::give_consent(operator, &options).await?;
        let second_factor = show_second_factor(operator, &session, &keys).await?;
        Ok(Self {
            researcher,
            origin: session.origin.clone(),
            keys,
            second_factor,
        })
    }

    fn requests(&self, record: Cid, count: usize) -> Result<Vec<SignedStatement>> {
        let request = || {
            let body = Body::AccessRequest(AccessRequest {
                records: vec![record],
                selection: None,
                purpose: PURPOSE.to_owned(),
                role: "researcher".to_owned(),
                recipient: self.keys.recipient().as_bytes().to_vec(),
                at: 0,
                second_factor: Some(Box::new(self.second_factor.clone())),
            });
            Ok(statement(&self.origin, body)?.sign(&[&self.keys.signing]))
        };
        (0..count).map(|_| request()).collect()
    }
}

/// The shipped policies, and one that asks researchers for a second factor; signed by two of the three members.
async fn ask_for_second_factors(clinic: &Clinic, dir: &Path) -> Result<()> {
    let operator = clinic.operator();
    let shown = operations::show_access_policy(operator, None).await?;
    let strict = shown.policies + SECOND_FACTOR;
    let path = dir.join("strict.cedar");
    fs::write(&path, strict).context("write the policies")?;
    let body = operations::access_policy(Some(&path), None)?;
    let other = clinic.other_operator()?;
    let keys = [operator.home.own_keys()?, other.home.own_keys()?];
    let signers: Vec<_> = keys.iter().map(|keys| &keys.signing).collect();
    let signed = statement(&operator.origin, body)?.sign(&signers);
    operator
        .client
        .submit(&signed, Some(Strength::Published))
        .await
        .context("set the policies")?;
    Ok(())
}

/// Enrols an authenticator app and shows its next code.
async fn show_second_factor(
    operator: &Session,
    session: &Session,
    keys: &OwnKeys,
) -> Result<SignedStatement> {
    let made = operations::new_factor(operator, keys.did()).await?;
    let mut factor = [0; 16];
    hex::decode_to_slice(&made.factor, &mut factor).context("read the factor's id")?;
    let app = Authenticator::scan(&made.uri)?;
    let node = made.node.parse().context("read the node's did:key")?;
    let (first, next) = (app.code(0)?, app.code(1)?);
    operations::confirm_factor(operator, keys.did(), factor, node, first.parse()?).await?;
    operations::show_factor(session, next.parse()?, None).await?;
    let shown = fs::read(session.home.path().join("second-factor"))?;
    Ok(SignedStatement::from_bytes(&shown)?)
}

const PURPOSE: &str = "HRESCH";
const CLIENTS: usize = 64;
const SECOND_FACTOR: &str = r#"
@id("second-factor")
forbid (principal, action, resource)
when { context.role == "researcher" }
unless { context.secondFactor };
"#;
