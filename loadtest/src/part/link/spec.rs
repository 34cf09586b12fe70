//! How a link is asked for.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What lies between the two ends.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum Link {
    /// Packets of 1,500 octets, as fast as the machine moves them.
    Wire,
    Path(Quality),
}

/// One way; the other is the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Quality {
    pub(crate) delay: Duration,
    /// The probability that a packet is lost.
    pub(crate) loss: f64,
    /// `None` for as fast as the machine can.
    pub(crate) octets_per_second: Option<u64>,
}

/// What is no link, and why.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum LinkError {
    #[error("{0:?} is none of: a delay such as 25ms, a loss such as 0.5%, a rate such as 1gbit")]
    Unknown(String),
    #[error("{0:?} is out of range: up to 2000ms, 50%, 100gbit")]
    Range(String),
    #[error("{0} is said twice")]
    Twice(&'static str),
}

const LONGEST_MS: f64 = 2000.0;
const MOST_LOSS: f64 = 50.0;
const FASTEST_MBIT: f64 = 100_000.0;

impl FromStr for Link {
    type Err = LinkError;

    /// `wire`, or some of a delay one way, a loss and a rate, between commas.
    fn from_str(text: &str) -> Result<Self, LinkError> {
        if text == "wire" {
            return Ok(Self::Wire);
        }
        let (mut delay, mut loss, mut rate) = (None, None, None);
        for item in text.split(',') {
            let digits = item.trim_end_matches(|character: char| !character.is_ascii_digit());
            let unknown = || LinkError::Unknown(item.to_owned());
            let number: f64 = digits.parse().map_err(|_| unknown())?;
            let within = |number: f64, most: f64| {
                let range = || LinkError::Range(item.to_owned());
                (0.0..=most)
                    .contains(&number)
                    .then_some(number)
                    .ok_or_else(range)
            };
            let (name, before) = match &item[digits.len()..] {
                "ms" => ("a delay", delay.replace(within(number, LONGEST_MS)?)),
                "%" => ("a loss", loss.replace(within(number, MOST_LOSS)?)),
                "mbit" => ("a rate", rate.replace(within(number, FASTEST_MBIT)?)),
                "gbit" => (
                    "a rate",
                    rate.replace(within(number * 1000.0, FASTEST_MBIT)?),
                ),
                _ => return Err(unknown()),
            };
            if before.is_some() {
                return Err(LinkError::Twice(name));
            }
        }
        let octets_per_second = rate.map(|mbit| ((mbit * 1e6 / 8.0) as u64).max(1));
        Ok(Self::Path(Quality {
            delay: Duration::from_secs_f64(delay.unwrap_or_default() / 1000.0),
            loss: loss.unwrap_or_default() / 100.0,
            octets_per_second,
        }))
    }
}

impl fmt::Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self::Path(path) = self else {
            return f.write_str("a wire");
        };
        let round_trip = path.delay.as_secs_f64() * 2000.0;
        write!(f, "{round_trip} ms round trip")?;
        if path.loss > 0.0 {
            write!(f, ", {} % lost each way", path.loss * 100.0)?;
        }
        if let Some(octets_per_second) = path.octets_per_second {
            write!(f, ", {} Mbit/s", octets_per_second as f64 * 8.0 / 1e6)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_is_read_as_it_is_meant() {
        let link: Link = "25ms,0.5%,1gbit".parse().unwrap();
        let path = Quality {
            delay: Duration::from_millis(25),
            loss: 0.005,
            octets_per_second: Some(125_000_000),
        };
        assert_eq!(link, Link::Path(path));
        assert_eq!(
            link.to_string(),
            "50 ms round trip, 0.5 % lost each way, 1000 Mbit/s"
        );
        assert_eq!("wire".parse(), Ok(Link::Wire));
        let path = Quality {
            octets_per_second: Some(12_500),
            ..Quality::default()
        };
        assert_eq!("0.1mbit".parse(), Ok(Link::Path(path)));
    }

    #[test]
    fn what_is_no_link_is_refused_with_the_reason() {
        for (text, error) in [
            ("", LinkError::Unknown(String::new())),
            ("fast", LinkError::Unknown("fast".to_owned())),
            ("25", LinkError::Unknown("25".to_owned())),
            ("1 ms", LinkError::Unknown("1 ms".to_owned())),
            ("1gbit,,", LinkError::Unknown(String::new())),
            ("-1ms", LinkError::Range("-1ms".to_owned())),
            ("51%", LinkError::Range("51%".to_owned())),
            ("1ms,2ms", LinkError::Twice("a delay")),
            ("1gbit,2mbit", LinkError::Twice("a rate")),
        ] {
            assert_eq!(text.parse::<Link>(), Err(error), "{text}");
        }
    }
}
