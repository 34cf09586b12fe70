//! What one end tells the other when it ends a tunnel or a carrier: number, name, sentence, and whether to come back.

use std::fmt;

/// When a closed agent should try again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// With the ordinary back-off.
    Soon,
    /// After minutes: somebody has to do something first.
    Later,
}

macro_rules! codes {
    ($(#[$doc:meta])* $type:ident { $($number:literal $variant:ident $name:literal $retry:ident $sentence:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $type {
            $(#[doc = $sentence] $variant,)*
        }

        impl $type {
            /// Every code, for tables and tests.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The number on the wire.
            pub fn number(self) -> u32 {
                match self { $(Self::$variant => $number,)* }
            }

            /// The code with `number`; `None` if a newer peer sent one this version does not know.
            pub fn from_number(number: u64) -> Option<Self> {
                match number { $($number => Some(Self::$variant),)* _ => None }
            }

            /// The word for logs and metric labels.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// What happened, for a person.
            pub fn sentence(self) -> &'static str {
                match self { $(Self::$variant => $sentence,)* }
            }

            /// Whether and when to try again.
            pub fn retry(self) -> Retry {
                match self { $(Self::$variant => Retry::$retry,)* }
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.sentence())
            }
        }
    };
}

codes! {
    /// Why a tunnel was closed.
    CloseCode {
        0 Done          "done"           Soon  "the tunnel was closed in good order",
        1 UnknownDevice "unknown_device" Later "this device is not registered here; pair it again",
        2 Removed       "removed"        Later "this device has been removed by its owner",
        3 Displaced     "displaced"      Later "another agent with this device's key has taken over",
        4 Superseded    "superseded"     Soon  "a newer tunnel of the same agent has taken over",
        5 Draining      "draining"       Soon  "the relay is being restarted",
        6 Unresponsive  "unresponsive"   Soon  "the other end stopped answering",
        7 TooSlow       "too_slow"       Soon  "the hello did not come in time",
        8 Protocol      "protocol"       Later "the other end broke the protocol",
        9 Version       "version"        Later "the other end speaks only protocol versions that are not supported here",
    }
}

codes! {
    /// Why one direction of a carrier was cut before its end.
    ResetCode {
        0 Unknown  "unknown"  Soon  "the carrier was reset",
        1 PeerGone "peer_gone" Soon "the connection on the far side was reset",
        2 Cut      "cut"      Later "the device lost its right to the carrier",
        3 Idle     "idle"     Soon  "no byte passed for too long",
        4 Refused  "refused"  Soon  "the agent does not serve this name",
        5 Stopping "stopping" Soon  "the program on the far side is stopping",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_comes_back_from_its_number_and_has_its_own_name() {
        let mut names = Vec::new();
        for code in CloseCode::ALL {
            assert_eq!(CloseCode::from_number(code.number().into()), Some(*code));
            assert!(!names.contains(&code.name()), "{code:?}");
            names.push(code.name());
        }
        for code in ResetCode::ALL {
            assert_eq!(ResetCode::from_number(code.number().into()), Some(*code));
        }
        assert_eq!(CloseCode::from_number(u64::MAX), None);
    }
}
