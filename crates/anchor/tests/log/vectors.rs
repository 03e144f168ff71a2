use medanchor_anchor::{Body, SignedStatement, Statement};
use medanchor_dag::{Did, Signature};
use serde_json::Value;

fn vectors() -> Value {
    serde_json::from_str(include_str!("../vectors/medanchor-v1.json")).unwrap()
}

fn bytes(value: &Value) -> Vec<u8> {
    hex::decode(value.as_str().unwrap()).unwrap()
}

#[test]
fn anchored_statement_of_another_implementation_parses_and_verifies() {
    let vectors = vectors();
    let vector = &vectors["anchored_statement"];
    let cbor = bytes(&vector["cbor"]);
    let statement = Statement::from_bytes(&cbor).unwrap();
    assert_eq!(statement.to_bytes(), cbor);
    assert_eq!(
        statement.origin,
        vectors["keys"]["origin"].as_str().unwrap()
    );
    let Body::Anchored(anchored) = &statement.body else {
        panic!("not an anchored statement")
    };
    let device: Did = vectors["keys"]["device_did"]
        .as_str()
        .unwrap()
        .parse()
        .unwrap();
    assert_eq!(anchored.device, device);
    let signature = Signature::new(bytes(&vector["signature"]).try_into().unwrap());
    let signed = SignedStatement {
        statement,
        signatures: vec![(device, signature)],
    };
    assert!(signed.verifies());
}

#[test]
fn anchored_statement_with_any_flipped_bit_does_not_verify() {
    let vectors = vectors();
    let cbor = bytes(&vectors["anchored_statement"]["cbor"]);
    let device: Did = vectors["keys"]["device_did"]
        .as_str()
        .unwrap()
        .parse()
        .unwrap();
    let signature = bytes(&vectors["anchored_statement"]["signature"]);
    let signature = Signature::new(signature.try_into().unwrap());
    for bit in 0..cbor.len() * 8 {
        let mut flipped = cbor.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        let Ok(statement) = Statement::from_bytes(&flipped) else {
            continue;
        };
        let signed = SignedStatement {
            statement,
            signatures: vec![(device, signature)],
        };
        assert!(!signed.verifies(), "bit {bit}");
    }
}
