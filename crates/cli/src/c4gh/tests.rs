use super::{key::KeyError, *};
use proptest::prelude::*;
use std::io::{Read, Write};

fn encrypted(plain: &[u8], reader: &PublicKey) -> Vec<u8> {
    let mut file = Encrypting::begin(Vec::new(), reader).unwrap();
    file.write_all(plain).unwrap();
    file.finish().unwrap()
}

fn decrypted(file: &[u8], key: &SecretKey) -> std::io::Result<Vec<u8>> {
    let mut plain = Vec::new();
    Decrypting::open(file, key)?.read_to_end(&mut plain)?;
    Ok(plain)
}

fn key() -> SecretKey {
    keys::FileKeys::draw().unwrap().writer
}

fn plain(len: usize) -> Vec<u8> {
    (0..=250).cycle().take(len).collect()
}

/// A packet as another writer may make it.
fn packet(plain: &[u8], to: &PublicKey) -> Vec<u8> {
    let writer = key();
    let shared = writer.shared(to, to, &writer.public()).unwrap();
    let sealed = seal(&aead(&shared).unwrap(), [7; NONCE], plain).unwrap();
    let len = u32::try_from(40 + sealed.len()).unwrap();
    [&len.to_le_bytes()[..], &[0; 4], &writer.public().0, &sealed].concat()
}

fn data_key(seed: u8) -> Vec<u8> {
    [&[0; 8][..], &[seed; 32]].concat()
}

fn edit_list(lens: &[u64]) -> Vec<u8> {
    let mut plain = vec![1, 0, 0, 0];
    plain.extend(u32::try_from(lens.len()).unwrap().to_le_bytes());
    plain.extend(lens.iter().flat_map(|len| len.to_le_bytes()));
    plain
}

fn file(packets: &[Vec<u8>], body: &[u8]) -> Vec<u8> {
    let count = u32::try_from(packets.len()).unwrap();
    let start = [&MAGIC[..], &VERSION.to_le_bytes(), &count.to_le_bytes()].concat();
    [start, packets.concat(), body.to_vec()].concat()
}

fn body(plain: &[u8], seeds: &[u8]) -> Vec<u8> {
    let segments = plain.chunks(SEGMENT).zip(seeds.iter().cycle());
    let sealed =
        segments.map(|(plain, &seed)| seal(&aead(&[seed; 32]).unwrap(), [9; NONCE], plain));
    sealed.map(Option::unwrap).collect::<Vec<_>>().concat()
}

const LENS: [usize; 8] = [
    0,
    1,
    15,
    SEGMENT - 1,
    SEGMENT,
    SEGMENT + 1,
    2 * SEGMENT,
    200_000,
];

#[test]
fn payload_of_every_length_is_decrypted_by_its_reader_alone() {
    let (reader, other) = (key(), key());
    for len in LENS {
        let plain = plain(len);
        let file = encrypted(&plain, &reader.public());
        let sealed = len + len.div_ceil(SEGMENT) * (NONCE + TAG);
        assert_eq!(file.len(), 124 + sealed, "the header has 124 bytes");
        assert!(decrypted(&file, &reader).unwrap() == plain, "{len}");
        assert!(decrypted(&file, &other).is_err());
    }
}

#[test]
fn every_flipped_bit_is_noticed() {
    let reader = key();
    let file = encrypted(&plain(100), &reader.public());
    for bit in 0..file.len() * 8 {
        let mut changed = file.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        assert!(decrypted(&changed, &reader).is_err(), "bit {bit}");
    }
}

#[test]
fn file_that_is_cut_off_is_noticed_but_between_two_segments() {
    let reader = key();
    let plain = plain(2 * SEGMENT + 10);
    let file = encrypted(&plain, &reader.public());
    let segment = NONCE + SEGMENT + TAG;
    for len in (0..200).chain([124 + segment - 1, 124 + segment + 28, file.len() - 1]) {
        let cut = decrypted(&file[..len], &reader);
        match len {
            // The format does not tell: whoever reads it compares the length with the record's.
            124 => assert!(cut.unwrap().is_empty()),
            _ => assert!(cut.is_err(), "{len}"),
        }
    }
    let cut = decrypted(&file[..124 + segment], &reader).unwrap();
    assert!(cut == plain[..SEGMENT]);
}

#[test]
fn packets_for_others_are_left_out_and_every_key_is_tried() {
    let (reader, other) = (key(), key());
    let plain = plain(3 * SEGMENT);
    let mine = |plain: Vec<u8>| packet(&plain, &reader.public());
    let theirs = packet(&data_key(5), &other.public());
    let mut foreign = theirs.clone();
    foreign[4] = 9;
    let packets = [theirs, foreign, mine(data_key(1)), mine(data_key(2))];
    let good = file(&packets, &body(&plain, &[1, 2]));
    assert!(decrypted(&good, &reader).unwrap() == plain);
    assert!(decrypted(&file(&packets, &body(&plain, &[1, 3])), &reader).is_err());
}

#[test]
fn edit_list_keeps_what_it_says() {
    let reader = key();
    let plain = plain(2 * SEGMENT + 100);
    let edited = |lens: &[u64]| {
        let packets = [data_key(1), edit_list(lens)].map(|plain| packet(&plain, &reader.public()));
        decrypted(&file(&packets, &body(&plain, &[1])), &reader)
    };
    let end = plain.len();
    let segment = SEGMENT as u64;
    for (lens, kept) in [
        (&[][..], &[][..]),
        (&[0], &[(0, end)]),
        (&[5], &[(5, end)]),
        (&[0, 7], &[(0, 7)]),
        (&[segment - 3, 6], &[(SEGMENT - 3, SEGMENT + 3)]),
        (&[1, 2, 3, 4], &[(1, 3), (6, 10)]),
        (&[1, 2, segment], &[(1, 3), (SEGMENT + 3, end)]),
        (&[0, end as u64], &[(0, end)]),
        (&[0, 0, 0, 5], &[(0, 5)]),
    ] {
        let kept = kept.iter().flat_map(|&(from, to)| plain[from..to].to_vec());
        let kept: Vec<u8> = kept.collect();
        assert!(edited(lens).unwrap() == kept, "{lens:?}");
    }
    for lens in [
        &[0, end as u64 + 1][..],
        &[end as u64 + 1],
        &[u64::MAX, 1],
        &[3, u64::MAX],
    ] {
        assert!(edited(lens).is_err(), "{lens:?}");
    }
}

#[test]
fn headers_that_contradict_themselves_or_a_limit_are_refused() {
    let reader = key();
    let mine = |plain: &[u8]| packet(plain, &reader.public());
    let key = data_key(1);
    let good = mine(&key);
    let mut low_order = good.clone();
    low_order[8..40].fill(0);
    let mut short = good.clone();
    short[0] = 67;
    let mut long = good.clone();
    long[..4].fill(0xff);
    let with = |other: Vec<u8>| vec![good.clone(), other];
    for packets in [
        vec![],
        vec![mine(&edit_list(&[1, 2]))],
        with(low_order),
        with(short),
        with(long),
        with(mine(&[7; 40])),
        with(mine(&key[..39])),
        with(mine(&[&key[..], &[0]].concat())),
        with(mine(&edit_list(&[1, 2])[..20])),
        with(mine(&[&edit_list(&[1])[..], &[0]].concat())),
        [with(mine(&edit_list(&[1]))), vec![mine(&edit_list(&[2]))]].concat(),
        vec![good.clone(); 17],
    ] {
        assert!(decrypted(&file(&packets, &[]), &reader).is_err());
    }
    assert!(decrypted(&file(&vec![good.clone(); 16], &[]), &reader).is_ok());
    let many = file(&vec![packet(&key, &self::key().public()); 1025], &[]);
    assert!(decrypted(&many, &reader).is_err());
    for at in 0..12 {
        let mut other = file(std::slice::from_ref(&good), &[]);
        other[at] ^= 1;
        assert!(decrypted(&other, &reader).is_err(), "byte {at}");
    }
}

/// A file of this plaintext, cut off or changed and gone on with: what it is then, and how much of it was kept.
fn gone_on(file: &std::path::Path, plain: &[u8], making: &Making<'_>) -> u64 {
    let mut options = std::fs::OpenOptions::new();
    let options = options.read(true).write(true).create(true).truncate(false);
    let mut seen = Vec::new();
    let mut see = |part: &[u8]| seen.extend_from_slice(part);
    let (mut encrypting, kept) = making.go_on(options.open(file).unwrap(), &mut see).unwrap();
    let at = usize::try_from(kept).unwrap();
    assert!(seen == plain[..at], "what was kept is shown");
    encrypting.write_all(&plain[at..]).unwrap();
    encrypting.finish().unwrap();
    kept
}

#[test]
fn file_that_is_cut_off_anywhere_goes_on_behind_its_last_whole_segment() {
    let (reader, folder) = (key(), tempfile::tempdir().unwrap());
    let path = folder.path().join("file");
    let plain = plain(2 * SEGMENT + 10);
    let public = reader.public();
    let making = Making {
        secret: &[7; 32],
        content: b"record",
        reader: &public,
        size: plain.len() as u64,
    };
    assert_eq!(gone_on(&path, &plain, &making), 0);
    let whole = std::fs::read(&path).unwrap();
    assert!(decrypted(&whole, &reader).unwrap() == plain);
    let segment = NONCE + SEGMENT + TAG;
    let kept_of = |len: usize| match len {
        _ if len < HEADER => None,
        _ if len == whole.len() => Some(plain.len()),
        _ => Some((len - HEADER) / segment * SEGMENT),
    };
    let around = |at: usize| at.saturating_sub(1)..=(at + 1).min(whole.len());
    let places = [
        0,
        57,
        HEADER,
        HEADER + segment,
        HEADER + 2 * segment,
        whole.len(),
    ];
    for len in places.into_iter().flat_map(around) {
        std::fs::write(&path, &whole[..len]).unwrap();
        let kept = gone_on(&path, &plain, &making);
        assert_eq!(kept, kept_of(len).unwrap_or(0) as u64, "{len}");
        let again = std::fs::read(&path).unwrap();
        assert!(decrypted(&again, &reader).unwrap() == plain, "{len}");
        // With the same keys it is the same file, else another one.
        assert_eq!(again == whole, kept_of(len).is_some(), "{len}");
    }
}

#[test]
fn what_is_damaged_or_of_another_file_is_not_gone_on_with() {
    let (reader, folder) = (key(), tempfile::tempdir().unwrap());
    let path = folder.path().join("file");
    let plain = plain(3 * SEGMENT);
    let public = reader.public();
    let making = Making {
        secret: &[7; 32],
        content: b"record",
        reader: &public,
        size: plain.len() as u64,
    };
    gone_on(&path, &plain, &making);
    let whole = std::fs::read(&path).unwrap();
    let segment = NONCE + SEGMENT + TAG;
    // Every byte of the header, one of each segment, and two segments in each other's place.
    let mut damaged: Vec<(Vec<u8>, usize)> = Vec::new();
    for at in (0..HEADER).chain([HEADER + 5, HEADER + segment + 500, whole.len() - 1]) {
        let mut changed = whole.clone();
        changed[at] ^= 1;
        damaged.push((changed, at.saturating_sub(HEADER) / segment));
    }
    let (first, rest) = whole[HEADER..].split_at(segment);
    let (second, third) = rest.split_at(segment);
    damaged.push(([&whole[..HEADER], second, first, third].concat(), 0));
    damaged.push(([&whole[..HEADER], first, third, second].concat(), 1));
    damaged.push(([&whole[..], &[0; 99]].concat(), 3));
    for (content, kept) in damaged {
        std::fs::write(&path, content).unwrap();
        assert_eq!(gone_on(&path, &plain, &making), (kept * SEGMENT) as u64);
        let file = std::fs::read(&path).unwrap();
        assert!(decrypted(&file, &reader).unwrap() == plain);
    }
    // Another's secret, another content, another reader.
    let other = key().public();
    for (secret, content, public) in [
        (&[8; 32], &b"record"[..], &public),
        (&[7; 32], b"another", &public),
        (&[7; 32], b"record", &other),
    ] {
        std::fs::write(&path, &whole).unwrap();
        let making = Making {
            secret,
            content,
            reader: public,
            size: plain.len() as u64,
        };
        assert_eq!(gone_on(&path, &plain, &making), 0);
    }
}

/// As `crypt4gh-keygen --nocrypt` of the Python implementation writes them.
const PUBLIC: &str = "-----BEGIN CRYPT4GH PUBLIC KEY-----\nAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=\n-----END CRYPT4GH PUBLIC KEY-----\n";

fn private(kdf: &[u8], cipher: &[u8], key: &[u8], rest: &[u8]) -> String {
    use base64::{Engine, prelude::BASE64_STANDARD};
    let field = |field: &[u8]| {
        [
            &u16::try_from(field.len()).unwrap().to_be_bytes()[..],
            field,
        ]
        .concat()
    };
    let fields = [field(kdf), field(cipher), field(key), rest.to_vec()].concat();
    let text = BASE64_STANDARD.encode([b"c4gh-v1", &fields[..]].concat());
    format!("-----BEGIN CRYPT4GH PRIVATE KEY-----\n{text}\n-----END CRYPT4GH PRIVATE KEY-----\n")
}

#[test]
fn keys_are_read_as_others_write_them() {
    assert_eq!(PublicKey::parse(PUBLIC), Ok(PublicKey([1; 32])));
    let comment = [&[0, 3][..], b"bob"].concat();
    for rest in [&[][..], &comment] {
        assert!(SecretKey::parse(&private(b"none", b"none", &[7; 32], rest)).is_ok());
    }
    let refused = |text: &str| SecretKey::parse(text).err().unwrap();
    let sealed = private(b"scrypt", b"chacha20_poly1305", &[7; 60], &[]);
    assert_eq!(refused(&sealed), KeyError::Passphrase);
    for text in [
        PUBLIC.to_owned(),
        private(b"none", b"none", &[7; 31], &[]),
        private(b"none", b"none", &[7; 32], &[0]),
        private(b"none", b"none", &[7; 32], &[&comment[..], &[0]].concat()),
        private(b"none", b"none", &[7; 32], &[]).replace("PRIVATE", "SECRET"),
    ] {
        assert_eq!(refused(&text), KeyError::Malformed("PRIVATE"), "{text}");
    }
    assert!(PublicKey::parse(&PUBLIC.replace("AQEB", "AQE")).is_err());
}

proptest! {
    #[test]
    fn parsers_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), text in any::<String>(), at in any::<prop::sample::Index>()) {
        let reader = key();
        let _ = decrypted(&bytes, &reader);
        let mut changed = encrypted(b"payload", &reader.public());
        let at = at.index(changed.len());
        changed.splice(at..at, bytes);
        let _ = decrypted(&changed, &reader);
        let _ = PublicKey::parse(&text);
        let _ = SecretKey::parse(&text);
    }

    #[test]
    fn payload_written_in_any_pieces_is_read_in_any_pieces(
        pieces in prop::collection::vec(0_usize..90_000, 0..5),
        step in 1_usize..70_000,
    ) {
        let reader = key();
        let plain = plain(pieces.iter().sum());
        let mut file = Encrypting::begin(Vec::new(), &reader.public()).unwrap();
        let mut rest = &plain[..];
        for piece in pieces {
            let (now, later) = rest.split_at(piece);
            file.write_all(now).unwrap();
            rest = later;
        }
        let file = file.finish().unwrap();
        let mut decrypting = Decrypting::open(&file[..], &reader).unwrap();
        let (mut read, mut buffer) = (Vec::new(), vec![0; step]);
        loop {
            let len = decrypting.read(&mut buffer).unwrap();
            if len == 0 { break; }
            read.extend_from_slice(&buffer[..len]);
        }
        prop_assert!(read == plain);
    }
}
