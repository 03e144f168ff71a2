use crate::{
    copies::{Copies, impatient, kill_while_it_fetches, place, put_many, replication, slow},
    crash::EndOnDrop,
    stage::{Stage, until},
};
use std::{
    collections::BTreeSet,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    thread,
};

#[test]
fn move_that_is_killed_on_both_sides_goes_on_and_no_record_ever_has_too_few_copies() {
    let mut stage = Stage::start_with(3, |network| {
        impatient(network);
        // The last is still at it when the one before was killed and goes on.
        for (node, rate) in network.nodes.iter().zip([30_000, 30_000, 12_000]) {
            slow(node, rate);
        }
    });
    let many = put_many(&stage, 600);
    let records: Vec<&str> = many.keys().map(String::as_str).collect();
    let copies = Copies::of(&stage);
    let watch = Watch {
        copies: Copies::of(&stage),
        records: &records,
        ended: AtomicBool::new(false),
        rounds: AtomicUsize::new(0),
        moving: AtomicUsize::new(0),
    };
    thread::scope(|scope| {
        let _end = EndOnDrop(&watch.ended);
        scope.spawn(|| watch.run());
        // The others are to have what hospital A has.
        let rules = "[[node]]\nname = \"hospital-a\"\nweight = 0\n[[rule]]\ncopies = 2\n";
        place(&stage, 2, rules);
        kill_while_it_fetches(&mut stage, "hospital-b");
        kill_while_it_gives_back(&mut stage, &copies, &watch);
        let others = BTreeSet::from(["hospital-b", "hospital-c"]);
        for record in &records {
            until("it has moved", || {
                copies.holders(record).as_ref() == Some(&others)
                    && copies.whole(record, &others) == others
            });
        }
    });
    assert!(watch.moving.into_inner() > 0, "no move was seen");
    stage.until_all_is_well();
    for (record, payload) in many.iter().step_by(50) {
        assert!(stage.read(record) == *payload, "{record}");
    }
    stage.assert_replicas_agree();
}

/// Kills hospital A while it has something left to give back that others hold in its place.
fn kill_while_it_gives_back(stage: &mut Stage, copies: &Copies, watch: &Watch<'_>) {
    loop {
        until("it gives back", || {
            replication(stage, "hospital-a", "to_give_back") > 0
        });
        stage.network.process("hospital-a").unwrap().kill().unwrap();
        until("another leads", || {
            copies.holders(watch.records[0]).is_some()
        });
        let is_left = |record: &&str| copies.holders(record).is_some_and(|them| them.len() == 3);
        let is_midway = watch.records.iter().any(is_left);
        // What was moved in part is seen with all its copies, too.
        let rounds = || watch.rounds.load(Ordering::SeqCst);
        let before = rounds();
        until("all records are looked at", || rounds() >= before + 2);
        stage.start_again("hospital-a");
        if is_midway {
            return;
        }
    }
}

/// Looks all the time whether every record has its copies.
struct Watch<'r> {
    copies: Copies,
    records: &'r [&'r str],
    ended: AtomicBool,
    /// Times that all records were looked at.
    rounds: AtomicUsize,
    /// Records that were seen where they were and where they go.
    moving: AtomicUsize,
}

impl Watch<'_> {
    fn run(&self) {
        while !self.ended.load(Ordering::SeqCst) {
            for record in self.records {
                if self.copies.assert_held(record, 2) > Some(2) {
                    self.moving.fetch_add(1, Ordering::SeqCst);
                }
            }
            self.rounds.fetch_add(1, Ordering::SeqCst);
        }
    }
}
