//! Chromium without a window, driven over its own debugging protocol.

use std::net::TcpStream;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use data_encoding::BASE64;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio_tungstenite::tungstenite::{Message, WebSocket, client};

use crate::process::{Process, SOON, output_of};
use crate::world::Server;

/// A browser with an empty profile that trusts one server's authority.
pub(crate) struct Chromium {
    _process: Process,
    socket: WebSocket<TcpStream>,
    session: String,
    next: u64,
    _home: TempDir,
}

impl Chromium {
    pub(crate) fn start(server: &Server) -> Self {
        Self::start_with(server, &["--disable-quic"])
    }

    pub(crate) fn start_with(server: &Server, flags: &[&str]) -> Self {
        let home = tempfile::tempdir().unwrap();
        let database = format!("sql:{}", home.path().join(".pki/nssdb").display());
        std::fs::create_dir_all(home.path().join(".pki/nssdb")).unwrap();
        certutil(&["-d", &database, "-N", "--empty-password"]);
        let authority = server.ready.ca.to_str().unwrap();
        certutil(&[
            "-d", &database, "-A", "-t", "C,,", "-n", "causeway", "-i", authority,
        ]);

        let mut command = Command::new("chromium");
        command.args([
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--no-first-run",
        ]);
        command.args(flags);
        command.args([
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
        ]);
        command.args([
            "--remote-debugging-port=0",
            "--remote-allow-origins=*",
            "--window-size=1000,900",
        ]);
        command.arg(format!(
            "--user-data-dir={}",
            home.path().join("profile").display()
        ));
        command.arg("about:blank").env("HOME", home.path());
        let process = Process::start(command);
        let line = process.until_said("DevTools listening on ");
        let url = line
            .split_once("listening on ")
            .unwrap()
            .1
            .trim()
            .to_owned();
        let address = url.trim_start_matches("ws://").split('/').next().unwrap();
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        let (socket, _) = client(url.as_str(), stream).unwrap();
        let mut chromium = Self {
            _process: process,
            socket,
            session: String::new(),
            next: 0,
            _home: home,
        };
        let target = chromium.call("Target.createTarget", json!({ "url": "about:blank" }));
        let attached = chromium.call(
            "Target.attachToTarget",
            json!({ "targetId": target["targetId"], "flatten": true }),
        );
        chromium.session = attached["sessionId"].as_str().unwrap().to_owned();
        chromium
    }

    pub(crate) fn open(&mut self, url: &str) {
        let navigated = self.call("Page.navigate", json!({ "url": url }));
        assert!(navigated["errorText"].is_null(), "{url}: {navigated}");
    }

    /// What the browser says of a page that it cannot open.
    pub(crate) fn fail_to_open(&mut self, url: &str) -> String {
        self.call("Page.navigate", json!({ "url": url }))["errorText"]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    }

    /// The value of an expression in the page.
    pub(crate) fn evaluate(&mut self, expression: &str) -> Value {
        let evaluated = self.try_evaluate(expression);
        evaluated.unwrap_or_else(|error| panic!("{expression}: {error}"))
    }

    fn try_evaluate(&mut self, expression: &str) -> Result<Value, Value> {
        let parameters =
            json!({ "expression": expression, "returnByValue": true, "awaitPromise": true });
        let evaluated = self.ask("Runtime.evaluate", parameters)?;
        Ok(evaluated["result"]["value"].clone())
    }

    /// Waits until an expression in the page is true, which cannot be said of a page that gives way to another just then.
    pub(crate) fn until(&mut self, expression: &str) {
        let deadline = Instant::now() + SOON;
        while self.try_evaluate(expression) != Ok(json!(true)) {
            if Instant::now() > deadline {
                let page = self.evaluate("document.documentElement.outerHTML");
                panic!("never true: {expression}\n{page}");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// A window of that size, as a phone or a desktop has it.
    pub(crate) fn resize(&mut self, width: u32, height: u32) {
        let metrics = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600 });
        self.call("Emulation.setDeviceMetricsOverride", metrics);
    }

    pub(crate) fn dark(&mut self, dark: bool) {
        let value = if dark { "dark" } else { "light" };
        let features = json!({ "features": [{ "name": "prefers-color-scheme", "value": value }] });
        self.call("Emulation.setEmulatedMedia", features);
    }

    /// Keeps a picture of the page in `target/screenshots`.
    pub(crate) fn screenshot(&mut self, name: &str) {
        let picture = self.call("Page.captureScreenshot", json!({ "format": "png" }));
        let octets = BASE64
            .decode(picture["data"].as_str().unwrap().as_bytes())
            .unwrap();
        assert!(octets.len() > 5000, "an empty picture");
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).with_file_name("screenshots");
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join(format!("{name}.png")), octets).unwrap();
    }

    fn call(&mut self, method: &str, parameters: Value) -> Value {
        let answer = self.ask(method, parameters);
        answer.unwrap_or_else(|error| panic!("{method}: {error}"))
    }

    /// What the browser answers, or what it has against it.
    fn ask(&mut self, method: &str, parameters: Value) -> Result<Value, Value> {
        self.next += 1;
        let mut message = json!({ "id": self.next, "method": method, "params": parameters });
        if !self.session.is_empty() {
            message["sessionId"] = json!(self.session);
        }
        self.socket
            .send(Message::Text(message.to_string().into()))
            .unwrap();
        loop {
            let Message::Text(text) = self.socket.read().unwrap() else {
                continue;
            };
            let answer: Value = serde_json::from_str(&text).unwrap();
            if answer["id"] == json!(self.next) {
                let error = &answer["error"];
                return match error.is_null() {
                    true => Ok(answer["result"].clone()),
                    false => Err(error.clone()),
                };
            }
        }
    }
}

pub(crate) fn certutil(arguments: &[&str]) {
    let mut certutil = Command::new("certutil");
    certutil.args(arguments);
    output_of(certutil);
}
