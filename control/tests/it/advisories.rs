//! The lock file holds no version that a published advisory names.

/// The oldest version of each crate that no advisory of the RustSec database names, as of 2026-08.
const MINIMUM: [(&str, [u64; 3]); 17] = [
    ("aws-lc-sys", [0, 39, 0]),
    ("bytes", [1, 11, 1]),
    ("h2", [0, 4, 16]),
    ("hickory-proto", [0, 26, 1]),
    ("lru", [0, 18, 2]),
    ("protobuf", [3, 7, 2]),
    ("quinn-proto", [0, 11, 15]),
    ("rand", [0, 9, 3]),
    ("ring", [0, 17, 12]),
    ("rustls", [0, 23, 18]),
    ("rustls-webpki", [0, 103, 13]),
    ("slab", [0, 4, 11]),
    ("sqlx", [0, 8, 1]),
    ("time", [0, 3, 47]),
    ("tokio", [1, 44, 2]),
    ("tracing-subscriber", [0, 3, 20]),
    ("tungstenite", [0, 20, 1]),
];

/// Abandoned, or with a better neighbour in the tree already.
const UNWANTED: [&str; 9] = [
    "async-std",
    "atty",
    "backoff",
    "bincode",
    "instant",
    "native-tls",
    "openssl",
    "rustls-pemfile",
    "serde_yml",
];

#[test]
fn no_dependency_has_a_known_hole() {
    let lock: toml::Table = include_str!("../../../Cargo.lock").parse().unwrap();
    let packages = lock["package"].as_array().unwrap();
    assert!(packages.len() > 100);
    for package in packages {
        let (name, version) = (
            package["name"].as_str().unwrap(),
            package["version"].as_str().unwrap(),
        );
        assert!(!UNWANTED.contains(&name), "{name} is not wanted");
        let numbers: Vec<u64> = version
            .split(['-', '+'])
            .next()
            .unwrap()
            .split('.')
            .map(|number| number.parse().unwrap())
            .collect();
        for (_, minimum) in MINIMUM.iter().filter(|(held, _)| *held == name) {
            assert!(
                numbers[..] >= minimum[..],
                "{name} {version} has a known hole, mended in {minimum:?}"
            );
        }
    }
}
