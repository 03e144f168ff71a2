use crate::{
    author::Author,
    stage::{Stage, configure, done},
};
use medanchor_dag::{Block, Codec};

#[test]
fn organisation_uploads_no_more_than_it_may_without_anchoring_it() {
    let stage = Stage::start_with(3, |network| {
        configure(network, |config| config.unanchored_bytes = Some(4 << 20));
    });
    // What is anchored does not count, however much it is.
    let device = stage.device("device");
    for n in 0..8_u8 {
        let file = stage.file("payload", &[n; 1 << 20]);
        done(Ok(stage.put(&device, &file)));
    }

    let name = &stage.network.nodes[0].name;
    let guest = Author::of(&stage.clinician);
    let put = |author: &Author, numbers: std::ops::Range<u8>| {
        let blocks = numbers.map(|n| Block::new(Codec::Raw, vec![n; 1 << 20]).unwrap());
        let node = author.session.client.only(name).unwrap();
        author.block_on(node.put(futures::stream::iter(blocks)))
    };
    put(&guest, 0..3).unwrap();
    // What is here already takes no room.
    put(&guest, 0..3).unwrap();
    let refused = put(&guest, 3..5).unwrap_err();
    assert_eq!(refused.code(), "over-quota");
    let refused = format!("{:#}", anyhow::Error::from(refused));
    assert!(refused.contains("without anchoring it"), "{refused}");
    // Whoever of the same organisation it is.
    let refused = put(&Author::of(&stage.hospital), 3..5).unwrap_err();
    assert_eq!(refused.code(), "over-quota");
    let other = Author::of(&stage.network.operator(1).unwrap());
    put(&other, 10..13).unwrap();
    put(&guest, 3..4).unwrap();
}
