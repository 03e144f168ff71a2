use crate::{
    author::{Author, Place, Sealed},
    stage::{Stage, until},
};
use futures::{StreamExt, stream};
use medanchor_anchor::{Outcome, SignedStatement};
use medanchor_api::{ClientError, Submitted};
use medanchor_dag::{Block, StreamId};

#[test]
fn stream_of_submissions_survives_its_node_and_spoils_nothing_by_a_bad_one() {
    let mut stage = Stage::start(3);
    let device = Author::of(&stage.device("device"));
    let custody = stage.custody.parse().unwrap();
    let mut place = Place {
        stream: StreamId::generate().unwrap(),
        seq: 0,
        prev: None,
    };
    let (mut good, mut blocks) = (Vec::new(), Vec::new());
    for number in 0..40_u8 {
        let sealed = Sealed::new(&device.keys.signing, custody, place, &[number; 100]);
        device.upload(&sealed.blocks());
        place.seq += 1;
        place.prev = Some(*sealed.record.cid());
        good.push(device.anchored(sealed.anchored()));
        blocks.push(sealed.blocks());
    }
    let mut bad = good[5].clone();
    bad.statement = good[6].statement.clone();

    let mut first = good[..20].to_vec();
    first.insert(10, bad);
    let answers = device.block_on(submit(&device, first.clone()));
    for (place, (signed, answer)) in first.iter().zip(&answers).enumerate() {
        match answer {
            Err(ClientError::Rejected(error)) => {
                assert_eq!((place, error.code.as_str()), (10, "bad-signature"));
            }
            answer => assert_anchored(signed, answer),
        }
    }
    assert_eq!(answers.len(), 21);

    // The rest is sent again by another node when the first one dies midway.
    let rest = good[20..].to_vec();
    let answers = device.block_on(async {
        let sent = stream::iter(rest.clone());
        let mut answers = device.session.client.submit_stream(sent, None);
        let mut all = vec![answers.next().await.unwrap()];
        stage.network.process("hospital-a").unwrap().kill().unwrap();
        while let Some(answer) = answers.next().await {
            all.push(answer);
        }
        all
    });
    assert_eq!(answers.len(), rest.len());
    for ((signed, blocks), answer) in rest.iter().zip(&blocks[20..]).zip(answers) {
        let answer = again_while_unavailable(&device, signed, blocks, answer);
        assert_anchored(signed, &answer);
    }
}

/// While the others choose a new leader, or lack what only the dead node had, "unavailable" is an answer too:
/// as `medanchor put` does, all of it is sent again.
fn again_while_unavailable(
    device: &Author,
    signed: &SignedStatement,
    blocks: &[Block],
    mut answer: Result<Submitted, ClientError>,
) -> Result<Submitted, ClientError> {
    until("the statement is answered", || {
        if matches!(answer, Err(ClientError::Unavailable { .. })) {
            device.upload(blocks);
            answer = device.block_on(device.session.client.submit(signed, None));
        }
        !matches!(answer, Err(ClientError::Unavailable { .. }))
    });
    answer
}

async fn submit(
    device: &Author,
    statements: Vec<SignedStatement>,
) -> Vec<Result<Submitted, ClientError>> {
    let client = &device.session.client;
    let answers = client.submit_stream(stream::iter(statements), None);
    answers.collect().await
}

fn assert_anchored(signed: &SignedStatement, answer: &Result<Submitted, ClientError>) {
    let medanchor_anchor::Body::Anchored(anchored) = &signed.statement.body else {
        panic!("not a record");
    };
    let leaf = &answer.as_ref().unwrap().leaf;
    assert_eq!(
        (leaf.outcome, leaf.record),
        (Outcome::Ok, Some(anchored.record))
    );
}
