//! provisional
use std::sync::Arc;
pub mod key;
pub use key::{Key, KeyError, Role, SignError};
#[derive(Debug, Clone)]
pub struct InForce {
    pub zsk: Arc<Key>,
    pub dnskeys: Vec<Arc<Key>>,
    pub ksks: Vec<Arc<Key>>,
    pub cds: Vec<Arc<Key>>,
    pub next_change: Option<u32>,
}
