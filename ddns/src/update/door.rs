//! By which door an update came.

/// A dialect in which updates are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Door {
    /// `GET /nic/update`
    Dyn2,
    /// `GET /update`
    DuckDns,
    /// `POST /register` and `POST /update`
    AcmeDns,
    /// `POST /present` and `POST /cleanup`
    HttpReq,
    /// UPDATE messages (RFC 2136).
    Dynamic,
    /// The devices' own API.
    Api,
    /// A zone's file that the operator imports.
    Import,
    /// Whoever has found the device there.
    Steering,
}

impl Door {
    pub(crate) const ALL: [Self; 8] = [
        Self::Dyn2,
        Self::DuckDns,
        Self::AcmeDns,
        Self::HttpReq,
        Self::Dynamic,
        Self::Api,
        Self::Import,
        Self::Steering,
    ];

    /// The word under which its updates are counted.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Dyn2 => "dyn2",
            Self::DuckDns => "duckdns",
            Self::AcmeDns => "acme_dns",
            Self::HttpReq => "httpreq",
            Self::Dynamic => "dynamic",
            Self::Api => "api",
            Self::Import => "import",
            Self::Steering => "steering",
        }
    }
}
