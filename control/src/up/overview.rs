//! What is where in a running server, for a person.

use super::Running;
use crate::state::StateDirectory;

impl Running {
    /// A table for whoever has started it, with a link in it that signs the operator in, once.
    ///
    /// # Errors
    /// If the system has no randomness to give.
    pub fn overview(&self) -> Result<String, getrandom::Error> {
        let addresses = self.addresses();
        let cloud = self.cloud_url();
        let mut rows = Vec::new();
        if let Some(demo) = self.demo_host() {
            rows.push(("demo page", self.url_of(demo)));
        }
        rows.push((
            "sign in",
            format!("{}  (once, within ten minutes)", self.sign_in_link()?),
        ));
        if let Some(dns) = addresses.dns {
            let name = self.demo_host().unwrap_or(&addresses.zone);
            rows.push(("DNS", format!("dig @{} -p {} {name}", dns.ip(), dns.port())));
        }
        if let Some(dot) = addresses.dot {
            let asked = format!(
                "kdig @{} -p {} +tls-ca={} +tls-hostname={} {}",
                dot.ip(),
                dot.port(),
                addresses.ca.display(),
                self.name_server(),
                self.demo_host().unwrap_or(&addresses.zone)
            );
            rows.push(("DNS over TLS", asked));
        }
        rows.push(("metrics", format!("http://{}/metrics", addresses.admin)));
        rows.push((
            "trust",
            format!(
                "{}  (curl --cacert; only for {})",
                addresses.ca.display(),
                addresses.zone
            ),
        ));
        rows.push(("state", addresses.state.display().to_string()));
        let state = if addresses.state == StateDirectory::default_path() {
            String::new()
        } else {
            format!(" --state {}", addresses.state.display())
        };
        rows.push(("add a device", format!("causeway device add mynas{state}")));
        let pair = format!(
            "causeway-agent pair --control {} --ca {} --code CODE",
            cloud.trim_end_matches('/'),
            addresses.ca.display()
        );
        rows.push(("", pair));
        rows.push((
            "",
            "causeway-agent run --origin http://127.0.0.1:80".to_owned(),
        ));
        let mut text = format!("Causeway serves {}.\n\n", addresses.zone);
        for (what, value) in rows {
            text.push_str(&format!("  {what:<14}{value}\n"));
        }
        text.push('\n');
        Ok(text)
    }
}
