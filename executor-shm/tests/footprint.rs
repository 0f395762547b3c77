//! The README's footprint table against the layout: a number that users plan memory by must be true.
#![deny(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use executor_shm::layout::Geometry;

/// Sizes as the README writes them: KiB below a MiB, then MiB with two decimals.
fn size(bytes: usize) -> String {
    if bytes < 1 << 20 {
        format!("{} KiB", bytes >> 10)
    } else {
        format!("{:.2} MiB", bytes as f64 / f64::from(1 << 20))
    }
}

#[test]
fn the_readme_says_how_many_bytes_each_configuration_takes() {
    let readme = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../README.md")).unwrap();
    let rows: Vec<[String; 6]> = readme
        .lines()
        .filter(|line| line.contains("| `--lanes "))
        .map(|line| {
            let cells: Vec<String> = line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect();
            cells.try_into().unwrap()
        })
        .collect();
    assert!(rows.len() >= 4, "the table is gone");
    for [_, flags, _, lane, start, all] in &rows {
        let flag = |name: &str| -> u32 {
            let words: Vec<&str> = flags.trim_matches('`').split(' ').collect();
            let at = words.iter().position(|&word| word == name).unwrap();
            let (number, unit) = words[at + 1].split_at(words[at + 1].find(['K', 'M']).unwrap_or(words[at + 1].len()));
            number.parse::<u32>().unwrap() << [0, 10, 20][["", "KiB", "MiB"].iter().position(|&it| it == unit).unwrap()]
        };
        let geometry = Geometry {
            capacity: flag("--capacity"),
            request_bytes: flag("--request-bytes"),
            response_bytes: flag("--response-bytes"),
            lanes: flag("--lanes"),
            // What the stock sidecar with its six handlers and one worker makes room for.
            handlers: 16,
            workers: 2,
        };
        geometry.check().unwrap();
        let fixed = geometry.status_bytes() + geometry.journal_bytes();
        let lanes = |count: u32| size(fixed + count.min(geometry.lanes) as usize * geometry.lane_bytes());
        assert_eq!([lane, start, all], [&size(geometry.lane_bytes()), &lanes(2), &lanes(geometry.lanes)], "{flags}");
    }
}
