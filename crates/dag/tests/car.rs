//! CAR files: what is written is read, and nothing else is accepted.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use cid::{Cid, multihash::Multihash};
use medanchor_dag::{
    Block, BlockError, CarError, CarReader, CarWriter, Codec, MAX_BLOCK_BYTES, MAX_CAR_ROOTS,
    cid_of, to_canonical,
};
use proptest::prelude::*;
use std::io::{self, Read};

/// A list of one link, to `hello world`, byte for byte from the specification.
const FIXTURE: &[&str] = &[
    // Header: 58 bytes, { roots: [link], version: 1 }.
    "3a a2 65 726f6f7473 81",
    "d82a 5825 00 01 71 12 20 0385cd9cb51dee79b59e34cb479c26bad9c46384af7ec4593642f90abe06aa46",
    "67 76657273696f6e 01",
    // The list: 36 bytes of CID, 42 of block.
    "4e 01 71 12 20 0385cd9cb51dee79b59e34cb479c26bad9c46384af7ec4593642f90abe06aa46",
    "81 d82a 5825 00 01 55 12 20 b94d27b9934d3e08a52e52d7da7dabfac484efe37a5380ee9088f7ace2efcde9",
    // The leaf: 36 and 11.
    "2f 01 55 12 20 b94d27b9934d3e08a52e52d7da7dabfac484efe37a5380ee9088f7ace2efcde9",
    "68656c6c6f20776f726c64",
];

#[test]
fn car_is_written_and_read_as_the_specification_says() {
    let leaf = raw(b"hello world");
    let list = Block::new(Codec::DagCbor, to_canonical(&[*leaf.cid()])).unwrap();
    let blocks = vec![list, leaf];
    assert_eq!(hex::encode(car(&blocks)), hex::encode(fixture()));
    let (roots, read) = read(&fixture()).unwrap();
    assert_eq!(roots, [*blocks[0].cid()]);
    assert_eq!(read, blocks);
}

#[test]
fn example_in_the_document_is_the_fixture() {
    let formats = include_str!("../../../docs/formats.md");
    let (_, example) = formats.split_once("\n```hex car\n").unwrap();
    let (example, _) = example.split_once("```").unwrap();
    assert_eq!(example.replace('\n', ""), hex::encode(fixture()));
}

#[test]
fn changed_byte_is_refused_or_shows_in_what_no_hash_covers() {
    let good = fixture();
    let (roots, blocks) = read(&good).unwrap();
    // In the header: codec and digest of the root. In the sections: the codecs.
    let root_codec = 1 + 8 + 5 + 1;
    let root_digest = root_codec + 3..root_codec + 3 + 32;
    let codecs = [59 + 2, 59 + 1 + 78 + 2];
    for (place, change) in (0..good.len()).flat_map(|place| (1..=255).map(move |c| (place, c))) {
        let mut bytes = good.clone();
        bytes[place] ^= change;
        let Ok((read_roots, read_blocks)) = read(&bytes) else {
            continue;
        };
        if place == root_codec || root_digest.contains(&place) {
            assert_ne!(read_roots, roots, "{place} ^ {change}");
            assert_eq!(read_blocks, blocks, "{place} ^ {change}");
        } else if let Some(changed) = codecs.iter().position(|codec| *codec == place) {
            // The same bytes under the other codec: another name, and the root does not lead to it.
            assert_eq!(change, 0x55 ^ 0x71);
            assert_eq!(read_blocks[changed].bytes(), blocks[changed].bytes());
            assert_ne!(read_blocks[changed].cid(), blocks[changed].cid());
        } else {
            panic!("{place} ^ {change} is not noticed");
        }
    }
}

#[test]
fn cut_car_is_refused_but_between_sections() {
    let good = fixture();
    let whole_sections = [59, 59 + 79];
    for len in 0..good.len() {
        match read(&good[..len]) {
            Ok((_, blocks)) => assert_eq!(len, whole_sections[blocks.len()]),
            Err(CarError::Truncated { offset }) => {
                let begins = [0, 59, 59 + 79].into_iter().rfind(|begin| *begin <= len);
                assert_eq!(offset, u64::try_from(begins.unwrap()).unwrap(), "{len}");
            }
            Err(error) => panic!("{len}: {error}"),
        }
    }
}

#[test]
fn nothing_is_read_after_an_error() {
    let mut bytes = fixture();
    bytes[59 + 40] ^= 1;
    let mut car = CarReader::new(bytes.as_slice()).unwrap();
    assert!(matches!(
        car.next(),
        Some(Err(CarError::Block {
            offset: 59,
            source: BlockError::WrongHash(_)
        }))
    ));
    assert!(car.next().is_none());
}

#[test]
fn hostile_lengths_allocate_nothing_and_are_refused() {
    let header = &fixture()[..59];
    for (bytes, expected) in [
        // The header's length.
        (vec![0x80; 20], "length"),
        (vec![0x80, 0x00], "length"),
        (vec![0xba, 0x00], "length"),
        ([vec![0xff; 9], vec![0x01]].concat(), "length"),
        (vec![0xff, 0xff, 0xff, 0xff, 0x7f], "header too long"),
        ([vec![0xff; 8], vec![0x7f]].concat(), "header too long"),
        (vec![0xc1, 0x9f, 0xfa, 0x01], "header too long"),
        (vec![0xc0, 0x9f, 0xfa, 0x01], "truncated"),
        (vec![0x00], "header"),
        (vec![0x80], "truncated"),
        (vec![], "truncated"),
        // A section's.
        ([header, &[0x00]].concat(), "cid"),
        ([header, &[0xa5, 0x80, 0x40]].concat(), "section size"),
        ([header, &[0xa4, 0x80, 0x40]].concat(), "truncated"),
        ([header, &[0xff; 8], &[0x7f]].concat(), "section size"),
        ([header, &[0xff; 12]].concat(), "length"),
        ([header, &[0x83, 0x00]].concat(), "length"),
    ] {
        assert_eq!(kind(&read(&bytes).unwrap_err()), expected, "{bytes:02x?}");
    }
}

#[test]
fn headers_that_are_not_of_version_1_with_roots_are_refused() {
    let link = hex::encode([&[0xd8, 0x2a, 0x58, 0x25, 0x00][..], &root_cid()].concat());
    let roots = "65726f6f7473";
    let version = "6776657273696f6e";
    for (header, expected) in [
        (format!("a2{roots}81{link}{version}01"), "ok"),
        // Version 2 begins like this.
        (format!("a1{version}02"), "version"),
        (format!("a2{roots}81{link}{version}02"), "version"),
        (format!("a1{version}01"), "no root"),
        (format!("a2{roots}80{version}01"), "no root"),
        (format!("a2{roots}f6{version}01"), "header"),
        (format!("a1{roots}81{link}"), "header"),
        // Not canonical: the order of the keys, a long number, an endless list, a doubled key.
        (format!("a2{version}01{roots}81{link}"), "header"),
        (format!("a2{roots}81{link}{version}1801"), "header"),
        (format!("a2{roots}9f{link}ff{version}01"), "header"),
        (
            format!("a3{roots}81{link}{roots}81{link}{version}01"),
            "header",
        ),
        (format!("a2{roots}81{link}{version}01f6"), "header"),
        (format!("a3616100{roots}81{link}{version}01"), "header"),
        (format!("a2{roots}8100{version}01"), "header"),
        ("81".repeat(5_000), "header"),
    ] {
        let header = hex::decode(&header).unwrap();
        let read = read(&part(&header));
        let said = read.map_or_else(|error| kind(&error), |_| "ok");
        assert_eq!(said, expected, "{}", hex::encode(header));
    }
    let dag_pb = Cid::new_v1(0x70, *cid_of(Codec::Raw, &[1; 32]).hash());
    let header = [
        &[0x81, 0xd8, 0x2a, 0x58, 0x25, 0x00][..],
        &dag_pb.to_bytes(),
    ]
    .concat();
    let header = format!("a2{roots}{}{version}01", hex::encode(header));
    let refused = read(&part(&hex::decode(header).unwrap())).unwrap_err();
    assert_eq!(kind(&refused), "root");
}

#[test]
fn blocks_that_are_never_stored_are_refused() {
    let header = &fixture()[..59];
    let digest = *raw(b"one").cid().hash();
    let v0 = Cid::new_v0(digest).unwrap().to_bytes();
    let dag_pb = Cid::new_v1(0x70, digest).to_bytes();
    let identity = Cid::new_v1(0x55, Multihash::wrap(0, b"one").unwrap()).to_bytes();
    let raw_cid = raw(b"one").cid().to_bytes();
    let long_version = [&[0x81, 0x00][..], &raw_cid[1..]].concat();
    for (section, expected) in [
        ([&raw_cid[..], b"one"].concat(), "ok"),
        ([&raw_cid[..], b"two"].concat(), "block"),
        ([&v0[..], b"one"].concat(), "block"),
        ([&dag_pb[..], b"one"].concat(), "block"),
        ([&identity[..], b"one"].concat(), "block"),
        ([&long_version[..], b"one"].concat(), "cid"),
        (raw_cid[..35].to_vec(), "cid"),
        (b"neither".to_vec(), "cid"),
    ] {
        let read = read(&[header, &part(&section)].concat());
        let said = read.map_or_else(|error| kind(&error), |_| "ok");
        assert_eq!(said, expected, "{section:02x?}");
    }
}

#[test]
fn empty_and_largest_blocks_pass() {
    let blocks = vec![raw(b""), raw(&vec![7; MAX_BLOCK_BYTES])];
    let (_, read) = read(&car(&blocks)).unwrap();
    assert_eq!(read, blocks);
}

#[test]
fn writer_refuses_no_root_too_many_and_other_kinds() {
    let root = *raw(b"one").cid();
    let new = |roots: &[Cid]| CarWriter::new(Vec::new(), roots).map(drop);
    let dag_pb = Cid::new_v1(0x70, *root.hash());
    for roots in [vec![], vec![root; MAX_CAR_ROOTS + 1], vec![dag_pb]] {
        let refused = new(&roots).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::InvalidInput);
    }
    // As many as there may be are read again.
    let car = CarWriter::new(Vec::new(), &vec![root; MAX_CAR_ROOTS]).unwrap();
    let bytes = car.finish().unwrap();
    assert_eq!(read(&bytes).unwrap().0.len(), MAX_CAR_ROOTS);
}

#[test]
fn errors_of_the_input_are_passed_on() {
    struct Broken;
    impl Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }
    }
    let good = fixture();
    let car = CarReader::new(good[..70].chain(Broken)).unwrap();
    let last = car.last().unwrap().unwrap_err();
    assert!(matches!(last, CarError::Io(error) if error.kind() == io::ErrorKind::BrokenPipe));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn what_is_written_is_read(
        payloads in prop::collection::vec((any::<bool>(), prop::collection::vec(any::<u8>(), 0..2_000)), 1..8)
    ) {
        let blocks: Vec<Block> = payloads
            .into_iter()
            .map(|(is_raw, bytes)| {
                let codec = if is_raw { Codec::Raw } else { Codec::DagCbor };
                Block::new(codec, bytes).unwrap()
            })
            .collect();
        let roots: Vec<Cid> = blocks.iter().map(|block| *block.cid()).collect();
        let mut car = CarWriter::new(Vec::new(), &roots).unwrap();
        for block in &blocks {
            car.write(block).unwrap();
        }
        let size = car.size_bytes();
        let bytes = car.finish().unwrap();
        prop_assert_eq!(u64::try_from(bytes.len()).unwrap(), size);
        let (read_roots, read_blocks) = read(&bytes).unwrap();
        prop_assert_eq!(read_roots, roots);
        prop_assert_eq!(read_blocks, blocks);
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = read(&bytes);
        let _ = read(&[&fixture()[..59], &bytes].concat());
        let _ = read(&part(&bytes));
    }
}

fn fixture() -> Vec<u8> {
    hex::decode(FIXTURE.concat().replace(' ', "")).unwrap()
}

fn raw(bytes: &[u8]) -> Block {
    Block::new(Codec::Raw, bytes.to_vec()).unwrap()
}

fn root_cid() -> Vec<u8> {
    fixture()[59 + 1..][..36].to_vec()
}

/// The first block is the root.
fn car(blocks: &[Block]) -> Vec<u8> {
    let mut car = CarWriter::new(Vec::new(), &[*blocks[0].cid()]).unwrap();
    for block in blocks {
        car.write(block).unwrap();
    }
    car.finish().unwrap()
}

fn read(bytes: &[u8]) -> Result<(Vec<Cid>, Vec<Block>), CarError> {
    let car = CarReader::new(bytes)?;
    let roots = car.roots().to_vec();
    Ok((roots, car.collect::<Result<_, _>>()?))
}

/// Short bytes after their length.
fn part(bytes: &[u8]) -> Vec<u8> {
    let len = u16::try_from(bytes.len()).unwrap();
    let [low, high] = (len & 0x7f | (len >> 7) << 8).to_le_bytes();
    let varint = if len < 0x80 {
        vec![low]
    } else {
        vec![low | 0x80, high]
    };
    [varint, bytes.to_vec()].concat()
}

fn kind(error: &CarError) -> &'static str {
    match error {
        CarError::Io(_) => "io",
        CarError::Truncated { .. } => "truncated",
        CarError::Length { .. } => "length",
        CarError::HeaderTooLong { .. } => "header too long",
        CarError::Header(_) => "header",
        CarError::Version(_) => "version",
        CarError::NoRoot => "no root",
        CarError::Root(_) => "root",
        CarError::SectionSize { .. } => "section size",
        CarError::Cid { .. } => "cid",
        CarError::Block { .. } => "block",
    }
}
