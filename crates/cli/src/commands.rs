use crate::{
    Asking, BaseRule, BreakGlassOptions, BrokersOptions, CarContent, CarExportOptions, CliError,
    ConsentOptions, CustodyOptions, DeviceOptions, EnrolOptions, Exit, GetManyOptions, GetOptions,
    Home, ImportOptions, Input, LogSource, NewPassphrase, PutManyOptions, PutOptions, Report,
    RestoreOptions, Selection, Session, ShareOptions, Wait,
    arguments::{
        AccessPolicyCommand, AdminCommand, Arguments, AuditCommand, BreakGlassCommand, CarCommand,
        CarExportArguments, Command, ConsentCommand, CustodyCommand, DeviceCommand, EnrolArguments,
        FactorCommand, GetArguments, KeyCommand, LegalHoldCommand, LogArguments, LogCommand,
        MemberCommand, PlacementCommand, PolicyCommand, PrincipalCommand, PutArguments,
        VerifyArguments, WitnessCommand,
    },
    equivocation::is_equivocation,
    exit::stable_code,
    get_many::read_list,
    home::believed,
    lines::Lines,
    log_fsck::fsck,
    log_monitor::monitor,
    log_watch::watch,
    operations,
};
use anyhow::{Context, Result};
use clap::Parser;
use medanchor_anchor::{AccountOf, Kind, PrincipalKind};
use serde_json::{Map, Value};
use std::{
    ffi::OsString,
    io::{self, Write},
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

/// Runs `medanchor` with these arguments, the first of which is the program's name.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let (out, err) = (&mut io::stdout(), &mut io::stderr());
    if let Err(error) = medanchor_secrets::forbid_core_dumps() {
        let error = anyhow::Error::new(error).context("keep memory out of core dumps");
        // Nothing can be done when the terminal is gone.
        let _ = print_error(&error, false, out, err);
        return Exit::of(&error).into();
    }
    run(arguments, out, err).into()
}

/// Runs `medanchor` with these arguments, the first of which is the program's name. What it has to say goes
/// to `out`, errors go to `err`. Not to be called within a tokio runtime.
pub fn run(
    arguments: impl IntoIterator<Item = OsString>,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> Exit {
    let arguments = match Arguments::try_parse_from(arguments) {
        Ok(arguments) => arguments,
        Err(error) => return explain_usage(&error, out, err),
    };
    let done = runtime().and_then(|runtime| runtime.block_on(execute(&arguments, out)));
    let written = match &done {
        Ok(report) => print(&arguments, report.as_ref(), out, err),
        Err(error) => print_error(error, arguments.json, out, err),
    };
    match (done, written) {
        (Err(error), _) => Exit::of(&error),
        (Ok(_), Err(_)) => Exit::Failed,
        (Ok(report), Ok(())) => report.exit(),
    }
}

async fn execute(arguments: &Arguments, out: &mut dyn Write) -> Result<Box<dyn Report>> {
    let home = home(arguments)?;
    let mut lines = Lines::new(out, arguments.json);
    Ok(match &arguments.command {
        Command::Key(
            command @ (KeyCommand::New { .. } | KeyCommand::Show | KeyCommand::Passphrase { .. }),
        ) => key(&home, command)?,
        Command::Verify(verify) => verify_file(&home, verify)?,
        Command::Accuse(accuse) => {
            let policy = believed(&home, accuse.policy.as_deref(), accuse.chain.as_deref())?;
            let (receipts, output) = ([&*accuse.first, &accuse.second], &accuse.output);
            Box::new(operations::accuse(receipts, output, &policy)?)
        }
        Command::Log(LogCommand::Consistency { old, new, source }) => {
            let source = log_source(arguments, source);
            Box::new(operations::consistency(&home, &source, old, new).await?)
        }
        Command::Log(LogCommand::Fsck { source, afresh }) => {
            let source = log_source(arguments, source);
            Box::new(Box::pin(fsck(&home, &source, *afresh, &mut lines)).await?)
        }
        Command::Log(LogCommand::Monitor {
            source,
            once,
            every,
        }) => {
            let every = (!once).then(|| Duration::from_secs(*every));
            let source = log_source(arguments, source);
            Box::new(Box::pin(monitor(&home, &source, every, &mut lines)).await?)
        }
        command => {
            let session = Session::open(&home)?;
            let session = match &arguments.node {
                Some(node) => session.only(node)?,
                None => session,
            };
            let session = session.waiting_for(wait(command));
            if let Command::Log(LogCommand::Watch { from }) = command {
                let source = LogSource {
                    node: arguments.node.clone(),
                    ..LogSource::default()
                };
                let watched = Box::pin(watch(&session, &source, *from, &mut lines));
                return Ok(Box::new(watched.await?));
            }
            execute_with_nodes(&session, command, arguments.json).await?
        }
    })
}

async fn execute_with_nodes(
    session: &Session,
    command: &Command,
    json: bool,
) -> Result<Box<dyn Report>> {
    Ok(match command {
        Command::Key(KeyCommand::Rotate { .. }) => Box::new(operations::rotate_key(session).await?),
        Command::Custody(command) => custody(session, command).await?,
        Command::Device(DeviceCommand::Principal(command)) => {
            principal(session, PrincipalKind::Device, command).await?
        }
        Command::Device(DeviceCommand::Serial { did, serial, salt }) => {
            Box::new(operations::check_serial(session, *did, serial, salt).await?)
        }
        Command::Person(command) => principal(session, PrincipalKind::Person, command).await?,
        Command::Org(command) => principal(session, PrincipalKind::Organisation, command).await?,
        Command::Service(command) => principal(session, PrincipalKind::Service, command).await?,
        Command::Consent(command) => consent(session, command).await?,
        Command::LegalHold(command) => legal_hold(session, command).await?,
        Command::Erase(arguments) => Box::new(operations::erase(session, &arguments.into()).await?),
        Command::Factor(command) => factor(session, command).await?,
        Command::BreakGlass(command) => break_glass(session, command).await?,
        Command::Audit(command) => audit(session, command).await?,
        Command::Put(put) => match one_input(put) {
            Some(input) => {
                let options = put_options(put, input);
                Box::new(Box::pin(operations::put(session, &options)).await?)
            }
            None => {
                let options = put_many_options(put)?;
                let put_all = async {
                    match &put.watch {
                        Some(folder) => {
                            let room = put.outbox_limit << 30;
                            operations::put_watch(session, folder, &options, room).await
                        }
                        None => operations::put_many(session, &options).await,
                    }
                };
                Box::new(Box::pin(put_all).await?)
            }
        },
        Command::Request(asked) => {
            let (purpose, role) = (&asked.purpose, asked.role.as_deref());
            let strength = asked.wait.into();
            Box::new(operations::request(session, &asked.record, purpose, role, strength).await?)
        }
        Command::Get(get) => match &get.into {
            Some(folder) => {
                let options = get_many_options(get, folder)?;
                Box::new(Box::pin(operations::get_many(session, &options)).await?)
            }
            None => {
                let options = get_options(get, json)?;
                Box::new(Box::pin(operations::get(session, &options)).await?)
            }
        },
        Command::Car(CarCommand::Export(export)) => {
            let options = car_export_options(export, json)?;
            Box::new(operations::export_car(session, &options).await?)
        }
        Command::Car(CarCommand::Import { file }) => {
            Box::new(operations::import_car(session, file).await?)
        }
        Command::Log(LogCommand::Show { leaf }) => {
            Box::new(operations::show_leaf(session, *leaf).await?)
        }
        Command::Log(LogCommand::List { from, limit }) => {
            Box::new(operations::list_leaves(session, *from, *limit).await?)
        }
        Command::Log(LogCommand::Prove { leaf, wait, output }) => {
            let strength = (*wait).into();
            Box::new(operations::prove_leaf(session, *leaf, strength, output.as_deref()).await?)
        }
        Command::Policy(PolicyCommand::Update { receipts }) => {
            Box::new(operations::update_policy(session, receipts).await?)
        }
        Command::Admin(AdminCommand::Member(command)) => member(session, command).await?,
        Command::Admin(AdminCommand::Witness(command)) => witness(session, command).await?,
        Command::Admin(AdminCommand::Placement(command)) => placement(session, command).await?,
        Command::Admin(AdminCommand::AccessPolicy(command)) => {
            access_policy(session, command).await?
        }
        Command::Status { record: None, .. } => Box::new(operations::status(session).await?),
        Command::Status {
            record: Some(record),
            read,
        } => Box::new(operations::status_of_record(session, record, *read).await?),
        Command::Key(_) | Command::Verify(_) | Command::Accuse(_) | Command::Log(_) => {
            anyhow::bail!("the command is not one of nodes' services")
        }
    })
}

fn key(home: &Home, command: &KeyCommand) -> Result<Box<dyn Report>> {
    Ok(Box::new(match command {
        KeyCommand::New { no_passphrase } => {
            let passphrase = match no_passphrase {
                true => NewPassphrase::None,
                false => NewPassphrase::Given,
            };
            operations::new_key(home, &passphrase)?
        }
        KeyCommand::Show => operations::show_key(home)?,
        KeyCommand::Passphrase {
            new_passphrase_file,
            no_passphrase,
        } => {
            let passphrase = match (no_passphrase, new_passphrase_file) {
                (true, _) => NewPassphrase::None,
                (false, Some(file)) => NewPassphrase::File(file.clone()),
                (false, None) => NewPassphrase::Asked,
            };
            operations::change_passphrase(home, &passphrase)?
        }
        KeyCommand::Rotate { .. } => anyhow::bail!("the command asks nodes"),
    }))
}

/// What the command waits for once the log has taken its statement.
fn wait(command: &Command) -> Wait {
    match command {
        Command::Put(put) => put.wait,
        Command::Key(KeyCommand::Rotate { wait }) => wait.wait,
        Command::Custody(
            CustodyCommand::New { wait, .. }
            | CustodyCommand::NewEpoch { wait, .. }
            | CustodyCommand::Restore { wait, .. }
            | CustodyCommand::Brokers { wait, .. },
        )
        | Command::Consent(
            ConsentCommand::Give { wait, .. }
            | ConsentCommand::Import { wait, .. }
            | ConsentCommand::Withdraw { wait, .. },
        )
        | Command::LegalHold(
            LegalHoldCommand::Place { wait, .. } | LegalHoldCommand::Release { wait, .. },
        )
        | Command::Factor(
            FactorCommand::Confirm { wait, .. } | FactorCommand::Remove { wait, .. },
        )
        | Command::BreakGlass(
            BreakGlassCommand::Rule { wait, .. }
            | BreakGlassCommand::Begin { wait, .. }
            | BreakGlassCommand::Review { wait, .. },
        ) => wait.wait,
        Command::Admin(
            AdminCommand::Member(MemberCommand::Add(submit) | MemberCommand::Remove(submit))
            | AdminCommand::Witness(WitnessCommand::Add(submit) | WitnessCommand::Remove(submit))
            | AdminCommand::Placement(PlacementCommand::Set(submit))
            | AdminCommand::AccessPolicy(AccessPolicyCommand::Set(submit)),
        ) => submit.wait.wait,
        Command::Device(DeviceCommand::Principal(command))
        | Command::Person(command)
        | Command::Org(command)
        | Command::Service(command) => match command {
            PrincipalCommand::Enrol(enrol) => enrol.wait.wait,
            PrincipalCommand::Suspend { wait, .. }
            | PrincipalCommand::Reinstate { wait, .. }
            | PrincipalCommand::Roles { wait, .. }
            | PrincipalCommand::Revoke { wait, .. } => wait.wait,
            PrincipalCommand::List => Wait::default(),
        },
        _ => Wait::default(),
    }
}

async fn custody(session: &Session, command: &CustodyCommand) -> Result<Box<dyn Report>> {
    Ok(match command {
        CustodyCommand::New {
            kind,
            writers,
            controller,
            wait: _,
        } => {
            let options = CustodyOptions {
                kind: (*kind).into(),
                writers: writers.clone(),
                controller: *controller,
            };
            Box::new(operations::new_custody(session, &options).await?)
        }
        CustodyCommand::List => Box::new(operations::list_custodies(session).await?),
        CustodyCommand::Check { custodies } => {
            Box::new(operations::check_custodies(session, custodies).await?)
        }
        CustodyCommand::NewEpoch { lost, wait: _ } => {
            Box::new(operations::replace_epoch_key(session, *lost).await?)
        }
        CustodyCommand::Restore { custody, copy, .. } => {
            let options = match custody {
                Some(custody) => RestoreOptions::One {
                    custody: *custody,
                    copy: copy.clone(),
                },
                None => RestoreOptions::All,
            };
            Box::new(operations::restore_custodies(session, &options).await?)
        }
        CustodyCommand::Share {
            custodies,
            to,
            output,
            all: _,
        } => {
            let options = ShareOptions {
                to: to.clone(),
                custodies: custodies.clone(),
                output: output.clone(),
            };
            Box::new(operations::share_custodies(session, &options).await?)
        }
        CustodyCommand::Hold { file, output } => {
            Box::new(operations::hold_custodies(session, file, output).await?)
        }
        CustodyCommand::Brokers {
            add,
            of,
            remove,
            custodies,
            all,
            wait: _,
        } => {
            let options = BrokersOptions {
                add: add.clone(),
                of: of.clone(),
                remove: remove.clone(),
                custodies: custodies.clone(),
                all: *all,
            };
            Box::new(operations::change_brokers(session, &options).await?)
        }
    })
}

async fn principal(
    session: &Session,
    kind: PrincipalKind,
    command: &PrincipalCommand,
) -> Result<Box<dyn Report>> {
    Ok(match command {
        PrincipalCommand::Enrol(enrol) => {
            Box::new(operations::enrol(session, &enrol_options(kind, enrol)).await?)
        }
        PrincipalCommand::List => Box::new(operations::list_principals(session, kind).await?),
        PrincipalCommand::Suspend { did, .. } => {
            Box::new(operations::suspend(session, *did).await?)
        }
        PrincipalCommand::Reinstate { did, .. } => {
            Box::new(operations::reinstate(session, *did).await?)
        }
        PrincipalCommand::Roles { did, roles, .. } => {
            Box::new(operations::change_roles(session, *did, roles).await?)
        }
        PrincipalCommand::Revoke { did, .. } => Box::new(operations::revoke(session, *did).await?),
    })
}

async fn member(session: &Session, command: &MemberCommand) -> Result<Box<dyn Report>> {
    Ok(match command {
        MemberCommand::List => Box::new(operations::list_members(session).await?),
        MemberCommand::DraftRemoval { name, draft } => {
            let body = operations::member_removal(session, name, draft.quorum).await?;
            Box::new(operations::draft_change(session, body, &draft.output).await?)
        }
        MemberCommand::Approve { draft } => Box::new(operations::approve(session, draft)?),
        MemberCommand::Add(submit) => {
            Box::new(operations::submit_change(session, Kind::MemberAdded, &submit.drafts).await?)
        }
        MemberCommand::Remove(submit) => {
            Box::new(operations::submit_change(session, Kind::MemberRemoved, &submit.drafts).await?)
        }
    })
}

async fn witness(session: &Session, command: &WitnessCommand) -> Result<Box<dyn Report>> {
    Ok(match command {
        WitnessCommand::List => Box::new(operations::list_witnesses(session).await?),
        WitnessCommand::DraftAddition {
            key,
            url,
            certificate,
            draft,
        } => {
            let certificate = certificate.as_deref();
            let body = operations::witness_addition(key, url, certificate, draft.quorum)?;
            Box::new(operations::draft_change(session, body, &draft.output).await?)
        }
        WitnessCommand::DraftRemoval { witness, draft } => {
            let body = operations::witness_removal(session, witness, draft.quorum).await?;
            Box::new(operations::draft_change(session, body, &draft.output).await?)
        }
        WitnessCommand::Approve { draft } => Box::new(operations::approve(session, draft)?),
        WitnessCommand::Add(submit) => {
            Box::new(operations::submit_change(session, Kind::WitnessAdded, &submit.drafts).await?)
        }
        WitnessCommand::Remove(submit) => Box::new(
            operations::submit_change(session, Kind::WitnessRemoved, &submit.drafts).await?,
        ),
    })
}

async fn placement(session: &Session, command: &PlacementCommand) -> Result<Box<dyn Report>> {
    Ok(match command {
        PlacementCommand::Show => Box::new(operations::show_placement(session).await?),
        PlacementCommand::Draft { rules, output } => {
            let body = operations::placement(session, rules).await?;
            Box::new(operations::draft_change(session, body, output).await?)
        }
        PlacementCommand::Approve { draft } => Box::new(operations::approve(session, draft)?),
        PlacementCommand::Set(submit) => {
            Box::new(operations::submit_change(session, Kind::Placed, &submit.drafts).await?)
        }
    })
}

async fn access_policy(
    session: &Session,
    command: &AccessPolicyCommand,
) -> Result<Box<dyn Report>> {
    Ok(match command {
        AccessPolicyCommand::Show { output } => {
            Box::new(operations::show_access_policy(session, output.as_deref()).await?)
        }
        AccessPolicyCommand::Draft {
            policies,
            schema,
            output,
        } => {
            let body = operations::access_policy(policies.as_deref(), schema.as_deref())?;
            Box::new(operations::draft_change(session, body, output).await?)
        }
        AccessPolicyCommand::Approve { draft } => Box::new(operations::approve(session, draft)?),
        AccessPolicyCommand::Set(submit) => {
            Box::new(operations::submit_change(session, Kind::PolicySet, &submit.drafts).await?)
        }
    })
}

async fn audit(session: &Session, command: &AuditCommand) -> Result<Box<dyn Report>> {
    Ok(match command {
        AuditCommand::Explain { leaf } => Box::new(operations::explain(session, *leaf).await?),
        AuditCommand::Exposure { of, since } => {
            Box::new(operations::exposure(session, *of, *since).await?)
        }
        AuditCommand::Account { custody, of, out } => {
            let of = match (custody, of) {
                (Some(custody), _) => AccountOf::Custody(*custody),
                (None, Some(of)) => AccountOf::Principal(*of),
                (None, None) => anyhow::bail!("neither --custody nor --of is given"),
            };
            Box::new(operations::audit_account(session, of, out.as_deref()).await?)
        }
    })
}

async fn consent(session: &Session, command: &ConsentCommand) -> Result<Box<dyn Report>> {
    Ok(match command {
        ConsentCommand::Give {
            custody,
            uses,
            deny,
            days,
            except,
            replace,
            document,
            wait: _,
        } => {
            let options = ConsentOptions {
                custody: *custody,
                replace: *replace,
                deny: *deny,
                uses: uses.to_uses(),
                except: except.clone(),
                days: *days,
                document: document.clone(),
            };
            Box::new(operations::give_consent(session, &options).await?)
        }
        ConsentCommand::Withdraw {
            custody, consent, ..
        } => Box::new(operations::withdraw_consent(session, *custody, *consent).await?),
        ConsentCommand::List { custody } => {
            Box::new(operations::list_consents(session, *custody).await?)
        }
        ConsentCommand::Show { custody, consent } => {
            Box::new(operations::show_consent(session, *custody, *consent).await?)
        }
        ConsentCommand::Import {
            file,
            custody,
            who,
            dissent,
            default,
            server,
            wait: _,
        } => {
            let options = ImportOptions {
                file: file.clone(),
                custody: *custody,
                who: who.clone(),
                base_rule: match (dissent, default) {
                    (true, _) => Some(BaseRule::Dissent),
                    (_, true) => Some(BaseRule::Default),
                    _ => None,
                },
                server: server.clone(),
            };
            Box::new(operations::import_consent(session, &options).await?)
        }
        ConsentCommand::Export {
            custody,
            consent,
            out,
        } => {
            let out = out.as_deref();
            Box::new(operations::export_consent(session, *custody, *consent, out).await?)
        }
    })
}

async fn factor(session: &Session, command: &FactorCommand) -> Result<Box<dyn Report>> {
    Ok(match command {
        FactorCommand::New { who } => Box::new(operations::new_factor(session, *who).await?),
        FactorCommand::Confirm {
            who,
            factor,
            code,
            at,
            wait: _,
        } => Box::new(operations::confirm_factor(session, *who, *factor, *at, *code).await?),
        FactorCommand::Remove { who, factor, .. } => {
            Box::new(operations::remove_factor(session, *who, *factor).await?)
        }
        FactorCommand::List { who } => Box::new(operations::list_factors(session, *who).await?),
        FactorCommand::Verify { code, factor } => {
            Box::new(operations::show_factor(session, *code, *factor).await?)
        }
    })
}

async fn break_glass(session: &Session, command: &BreakGlassCommand) -> Result<Box<dyn Report>> {
    Ok(match command {
        BreakGlassCommand::Rule {
            roles,
            reviewers,
            lasts_hours,
            review_within_hours,
            wait: _,
        } => {
            let options = BreakGlassOptions {
                roles: roles.clone(),
                reviewers: reviewers.clone(),
                lasts_ms: lasts_hours * HOUR_MS,
                review_within_ms: review_within_hours * HOUR_MS,
            };
            Box::new(operations::set_break_glass_rule(session, &options).await?)
        }
        BreakGlassCommand::Begin {
            custody,
            reason,
            role,
            wait: _,
        } => Box::new(operations::begin_emergency(session, *custody, role, *reason).await?),
        BreakGlassCommand::List { to_review } => {
            Box::new(operations::list_emergencies(session, *to_review).await?)
        }
        BreakGlassCommand::Review {
            emergency, finding, ..
        } => {
            let finding = finding.finding();
            Box::new(operations::review_emergency(session, *emergency, finding).await?)
        }
    })
}

async fn legal_hold(session: &Session, command: &LegalHoldCommand) -> Result<Box<dyn Report>> {
    Ok(match command {
        LegalHoldCommand::Place { held, matter, .. } => {
            let held = held.held().context("neither a record nor a custody key")?;
            Box::new(operations::place_legal_hold(session, held, matter).await?)
        }
        LegalHoldCommand::Release { hold, .. } => {
            Box::new(operations::release_legal_hold(session, *hold).await?)
        }
        LegalHoldCommand::List => Box::new(operations::list_legal_holds(session).await?),
    })
}

/// A receipt, an account of disclosures, or a proof that somebody lies: the first line tells.
fn verify_file(home: &Home, arguments: &VerifyArguments) -> Result<Box<dyn Report>> {
    let (file, record) = (&arguments.receipt, arguments.record.as_deref());
    let (policy, chain) = (arguments.policy.as_deref(), arguments.chain.as_deref());
    let epochs = believed(home, policy, chain)?;
    let strength = arguments.strength.into();
    if operations::is_account(file) {
        require_no_record(record, "an account of disclosures")?;
        return Ok(Box::new(operations::verify_account(
            file, &epochs, strength,
        )?));
    }
    if operations::is_erasure(file) {
        require_no_record(record, "the certificate of an erasure")?;
        return Ok(Box::new(operations::verify_erasure(
            file, &epochs, strength,
        )?));
    }
    if is_equivocation(file)? {
        require_no_record(record, "an equivocation proof")?;
        return Ok(Box::new(operations::verify_equivocation(file, &epochs)?));
    }
    if operations::is_conflict(file) {
        return Ok(Box::new(operations::verify_conflict(
            file, &epochs, strength,
        )?));
    }
    Ok(Box::new(operations::verify(
        file, record, &epochs, strength,
    )?))
}

fn require_no_record(record: Option<&Path>, what: &str) -> Result<()> {
    match record {
        Some(_) => Err(CliError::Usage(format!("{what} is of no record")).into()),
        None => Ok(()),
    }
}

fn log_source(arguments: &Arguments, source: &LogArguments) -> LogSource {
    LogSource {
        url: source.url.clone(),
        ca: source.ca.clone(),
        policy: source.policy.clone(),
        chain: source.chain.clone(),
        node: arguments.node.clone(),
    }
}

fn enrol_options(kind: PrincipalKind, arguments: &EnrolArguments) -> EnrolOptions {
    EnrolOptions {
        who: arguments.did,
        kind,
        roles: arguments.roles.clone(),
        label: arguments.label.clone(),
        device: DeviceOptions {
            manufacturer: arguments.manufacturer.clone(),
            model: arguments.model.clone(),
            udi: arguments.udi.clone(),
            firmware: arguments.firmware.clone(),
            serial: arguments.serial.clone(),
        },
    }
}

/// What is put by itself, without a manifest.
fn one_input(arguments: &PutArguments) -> Option<Input> {
    match arguments.file.as_slice() {
        [file] if file == Path::new("-") => Some(Input::Stdin),
        [file] if !file.is_dir() && arguments.manifest.is_none() => Some(Input::File(file.clone())),
        _ => None,
    }
}

fn put_many_options(arguments: &PutArguments) -> Result<PutManyOptions> {
    let of_one = arguments.name.is_some() || arguments.captured_at.is_some();
    if of_one || arguments.format.is_some() {
        let problem = "--name, --captured-at and --format are for one file";
        return Err(CliError::Usage(problem.to_owned()).into());
    }
    Ok(PutManyOptions {
        paths: arguments.file.clone(),
        custody: arguments.custody,
        class: arguments.class,
        suite: arguments.suite.into(),
        chunk_log2: arguments.chunk_log2,
        content_type: arguments.content_type.clone(),
        manifest: arguments.manifest.clone(),
        limit: arguments.limit,
    })
}

fn put_options(arguments: &PutArguments, input: Input) -> PutOptions {
    PutOptions {
        input,
        custody: arguments.custody,
        class: arguments.class,
        suite: arguments.suite.into(),
        chunk_log2: arguments.chunk_log2,
        captured_at_unix_ms: arguments.captured_at,
        filename: arguments.name.clone(),
        content_type: arguments.content_type.clone(),
        limit: arguments.limit,
        c4gh_key: arguments.key.clone(),
    }
}

fn get_options(arguments: &GetArguments, json: bool) -> Result<GetOptions> {
    let [record] = arguments.record.as_slice() else {
        let problem = "-o is for one record: several go into a folder with --into";
        return Err(CliError::Usage(problem.to_owned()).into());
    };
    let asked = arguments.output.as_deref();
    let asked = asked.context("neither -o nor --into is given")?;
    Ok(GetOptions {
        record: *record,
        asking: asking(arguments),
        output: output(asked, json)?,
        range: arguments.range,
        limit: arguments.limit,
        c4gh_to: arguments.to.clone(),
    })
}

fn get_many_options(arguments: &GetArguments, folder: &Path) -> Result<GetManyOptions> {
    let mut records = arguments.record.clone();
    if let Some(list) = &arguments.records {
        records.extend(read_list(list)?);
    }
    Ok(GetManyOptions {
        records,
        granted: arguments.granted,
        selection: Selection {
            stream: arguments.device.zip(arguments.stream),
            custody: arguments.custody,
            class: arguments.class,
            from: arguments.from,
            until: arguments.until,
        },
        folder: folder.to_owned(),
        asking: asking(arguments),
        limit: arguments.limit,
    })
}

fn asking(arguments: &GetArguments) -> Asking {
    Asking {
        purpose: arguments.purpose.clone(),
        role: arguments.role.clone(),
        strength: arguments.wait.into(),
    }
}

fn car_export_options(arguments: &CarExportArguments, json: bool) -> Result<CarExportOptions> {
    let content = match (arguments.device, arguments.stream) {
        (Some(device), Some(stream)) => CarContent::Stream { device, stream },
        _ => CarContent::Records(arguments.records.clone()),
    };
    Ok(CarExportOptions {
        content,
        output: output(&arguments.output, json)?,
    })
}

/// The file to write, or none for standard output.
fn output(path: &Path, json: bool) -> Result<Option<PathBuf>> {
    let to_stdout = path == Path::new("-");
    if to_stdout && json {
        let problem = "--json and `-o -` both want standard output";
        return Err(CliError::Usage(problem.to_owned()).into());
    }
    Ok((!to_stdout).then(|| path.to_owned()))
}

fn home(arguments: &Arguments) -> Result<Home> {
    let given = arguments.home.clone();
    let path = given.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".medanchor")));
    let path = path.ok_or_else(|| {
        CliError::Usage("there is no home folder: name one with --home".to_owned())
    })?;
    Ok(Home::new(path).with_passphrase_file(arguments.passphrase_file.clone()))
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("start the runtime")
}

/// A payload on standard output stands there alone.
fn print(
    arguments: &Arguments,
    report: &dyn Report,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> io::Result<()> {
    let output = match &arguments.command {
        Command::Get(get) => get.output.as_deref(),
        Command::Car(CarCommand::Export(export)) => Some(export.output.as_path()),
        _ => None,
    };
    let payload_on_out = output == Some(Path::new("-"));
    match (arguments.json, payload_on_out) {
        (true, _) => writeln!(out, "{}", report.to_json()),
        (false, true) => writeln!(err, "{report}"),
        (false, false) => writeln!(out, "{report}"),
    }
}

fn print_error(
    error: &anyhow::Error,
    json: bool,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> io::Result<()> {
    if json {
        writeln!(out, "{}", error_object(error))?;
    }
    writeln!(err, "medanchor: {error:#}")?;
    match Exit::of(error).hint() {
        Some(hint) => writeln!(err, "hint: {hint}"),
        None => Ok(()),
    }
}

/// `{ "ok": false, "code", "error" [, "reason", "leaf_index", "hint"] }`.
fn error_object(error: &anyhow::Error) -> Value {
    let exit = Exit::of(error);
    let mut object = Map::new();
    object.insert("ok".to_owned(), false.into());
    object.insert("code".to_owned(), stable_code(error).into());
    object.insert("error".to_owned(), format!("{error:#}").into());
    if let Some(hint) = exit.hint() {
        object.insert("hint".to_owned(), hint.into());
    }
    match error.downcast_ref() {
        Some(CliError::Denied {
            reason, leaf_index, ..
        }) => {
            object.insert("reason".to_owned(), reason.as_str().into());
            object.insert("leaf_index".to_owned(), (*leaf_index).into());
        }
        Some(CliError::Refused { leaf_index, .. }) => {
            object.insert("leaf_index".to_owned(), (*leaf_index).into());
        }
        _ => (),
    }
    Value::Object(object)
}

/// Help and version are no errors.
fn explain_usage(error: &clap::Error, out: &mut dyn Write, err: &mut dyn Write) -> Exit {
    let text = error.render();
    // Nothing can be done when the terminal is gone.
    if error.use_stderr() {
        let _ = write!(err, "{text}");
        Exit::Usage
    } else {
        let _ = write!(out, "{text}");
        Exit::Done
    }
}

const HOUR_MS: u64 = 60 * 60 * 1000;

#[cfg(test)]
mod tests {
    use super::*;

    fn run_in(home: &Path, line: &str) -> (u8, String, String) {
        let words = ["medanchor", "--home"].map(OsString::from).into_iter();
        let words = words
            .chain([home.into()])
            .chain(line.split(' ').map(OsString::from));
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let exit = run(words, &mut out, &mut err);
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (exit.code(), text(out), text(err))
    }

    #[test]
    fn key_is_made_in_a_folder_that_does_not_exist_yet() {
        let home = tempfile::tempdir().unwrap();
        let (code, _, err) = run_in(
            &home.path().join("deep").join("home"),
            "key new --no-passphrase",
        );
        assert_eq!(code, 0, "{err}");
    }

    #[test]
    fn key_is_made_shown_and_not_overwritten() {
        let home = tempfile::tempdir().unwrap();
        let (code, made, _) = run_in(home.path(), "key new --no-passphrase --json");
        let made: Value = serde_json::from_str(&made).unwrap();
        assert_eq!((code, &made["ok"]), (0, &Value::Bool(true)));
        let (_, shown, _) = run_in(home.path(), "key show --json");
        assert_eq!(serde_json::from_str::<Value>(&shown).unwrap(), made);
        let (code, refused, err) = run_in(home.path(), "key new --no-passphrase --json");
        let refused: Value = serde_json::from_str(&refused).unwrap();
        assert_eq!((code, &refused["ok"]), (1, &Value::Bool(false)));
        assert!(err.contains("never overwritten"), "{err}");
    }

    #[test]
    fn wrong_usage_and_missing_files_have_their_exit_codes() {
        let home = tempfile::tempdir().unwrap();
        let (code, out, err) = run_in(home.path(), "fly");
        assert_eq!((code, out.as_str()), (2, ""));
        assert!(err.contains("fly"), "{err}");
        let (code, out, _) = run_in(home.path(), "help");
        assert_eq!(code, 0);
        assert!(out.contains("put"), "{out}");
        let (code, _, err) = run_in(home.path(), "status");
        assert_eq!(code, 1);
        assert!(err.contains("medanchord invite"), "{err}");
    }
}
