//! People's way: Chromium, by name, through the relay, with the demo's authority trusted in its certificate database.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use crate::chromium::Chromium;
use crate::process::run;
use crate::world::{Server, causeway_agent};

#[test]
fn chromium_shows_the_demo_page_and_uses_it() {
    let server = Server::start();
    let mut chromium = Chromium::start(&server);
    chromium.open(&server.url("demo", "/"));
    chromium.until("document.title.startsWith('Demo NAS')");
    chromium.until("document.querySelectorAll('#files li').length === 2");
    chromium.until("/^[0-9]+:[0-9]+/.test(document.getElementById('clock').textContent)");
    assert_eq!(chromium.evaluate("location.protocol"), "https:");
    assert_eq!(chromium.evaluate("isSecureContext"), true);
    chromium.screenshot("demo");

    // A person chooses a file.
    chromium.evaluate(
        "{ const chosen = new DataTransfer();
           chosen.items.add(new File(['from Chromium'], 'note.txt'));
           const input = document.getElementById('file');
           input.files = chosen.files;
           input.dispatchEvent(new Event('change')); }",
    );
    chromium.until("document.getElementById('state').textContent === 'note.txt is on the NAS.'");
    chromium.until("document.querySelectorAll('#files li').length === 3");
    assert_eq!(
        chromium.evaluate("fetch('/files/note.txt').then((answer) => answer.text())"),
        "from Chromium"
    );
    chromium.resize(390, 844);
    chromium.dark(true);
    assert_eq!(
        chromium.evaluate("document.documentElement.scrollWidth <= innerWidth"),
        true,
        "it fits a phone"
    );
    chromium.screenshot("demo-phone");
}

#[test]
fn a_page_tells_whether_names_lead_home() {
    let server = Server::start();
    // Of two devices one is at home, at the port of the page.
    let home = server.pair("mynas");
    let away = server.pair("other");
    let at_home = format!("127.0.0.2:{}", server.ready.front.port());
    let _direct = home.run_with("http://127.0.0.1:1", &["--direct", &at_home]);
    let _agent = away.run("http://127.0.0.1:1");
    let rules = "--host-resolver-rules=MAP lan.mynas.nas.localhost 127.0.0.2";
    let mut chromium = Chromium::start_with(&server, &["--disable-quic", rules]);
    chromium.open(&server.url("cloud", "/lan"));
    chromium.until("document.title.startsWith('Names at home')");
    let ask = |chromium: &mut Chromium, name: &str| {
        chromium.evaluate(&format!(
            "document.getElementById('name').value = '{name}';
             document.getElementById('test').requestSubmit(); 0"
        ));
        chromium.until("!document.querySelector('#test button').disabled");
        let state = chromium.evaluate("document.getElementById('state').textContent");
        state.as_str().unwrap().to_owned()
    };
    // By itself it asks nobody.
    let asked = "performance.getEntriesByType('resource').filter((one) => !one.name.startsWith(location.origin)).length";
    assert_eq!(chromium.evaluate(asked), 0);

    for pasted in [
        "mynas",
        " LAN.MyNas.nas.localhost. ",
        "https://mynas.nas.localhost/x",
    ] {
        let told = ask(&mut chromium, pasted);
        assert_eq!(
            told,
            "lan.mynas.nas.localhost leads straight to the device here: nothing is held back.",
            "{pasted}"
        );
    }
    assert_eq!(chromium.evaluate("location.hash"), "#mynas");
    let exempt = chromium.evaluate("document.querySelector('code.lan').textContent");
    assert_eq!(exempt, "lan.mynas.nas.localhost");
    chromium.screenshot("lan");
    let told = ask(&mut chromium, "other");
    assert!(
        told.starts_with("lan.other.nas.localhost leads to the relay"),
        "{told}"
    );

    let told = ask(&mut chromium, "nobody");
    assert!(
        told.contains("Most likely your router holds it back"),
        "{told}"
    );
    assert_eq!(
        chromium.evaluate("document.getElementById('state').classList.contains('error')"),
        true
    );
    chromium.resize(390, 844);
    chromium.dark(true);
    assert_eq!(
        chromium.evaluate("document.documentElement.scrollWidth <= innerWidth"),
        true,
        "it fits a phone"
    );
    chromium.screenshot("lan-phone");

    // Where the name is answered and nobody is there, the browser tries for long; and where a name server says nothing, for any name.
    let silent = |chromium: &mut Chromium, when: &str| {
        chromium.evaluate(&format!(
            "window.really ??= fetch;
             fetch = (url, options) => {when} ? new Promise(() => {{}}) : really(url, options); 0"
        ));
    };
    silent(&mut chromium, "url.includes('lan.third.')");
    let told = ask(&mut chromium, "third");
    assert!(
        told.contains("is not held back here, but nobody answers"),
        "{told}"
    );
    silent(&mut chromium, "true");
    let told = ask(&mut chromium, "third");
    assert!(told.contains("name server takes too long"), "{told}");

    for bad in ["a b", "<b>", "x.y.z", "-", "demo.other.test"] {
        let told = ask(&mut chromium, bad);
        assert!(
            told.starts_with("This is no name of a device."),
            "{bad}: {told}"
        );
    }
    // What stands behind the # is text and nothing else.
    chromium.open("about:blank");
    chromium.open(&server.url("cloud", "/lan#%3Cimg%20src=x%20onerror=alert(1)%3E"));
    chromium.until("document.getElementById('name').value.includes('<img')");
    assert_eq!(
        chromium.evaluate("document.querySelectorAll('main img').length"),
        0
    );
    chromium.open("about:blank");
    chromium.open(&server.url("cloud", "/lan#%E0%A4%A"));
    chromium.until("document.title.startsWith('Names at home')");
    let told = ask(&mut chromium, "mynas");
    assert!(told.contains("nothing is held back"), "{told}");
}

#[test]
fn the_operator_sees_devices_come_and_go() {
    let server = Server::start();
    let mut chromium = Chromium::start(&server);
    let page = server.url("cloud", "/");
    chromium.open(&page);
    chromium.until("document.title.startsWith('Sign in')");
    assert_eq!(
        chromium.evaluate("document.body.textContent.includes('demo')"),
        false
    );
    chromium.screenshot("sign-in");

    // No answer, and one that is no answer of ours, are told in words.
    for answer in [
        "Promise.reject(new TypeError())",
        "Promise.resolve(new Response('<html>', { status: 502 }))",
    ] {
        chromium.evaluate("document.getElementById('state').textContent = ''");
        chromium.evaluate(&format!(
            "window.really ??= fetch; fetch = () => {answer}; location.hash = 'sign-in=token'"
        ));
        chromium
            .until("document.getElementById('state').textContent.includes('cannot be reached')");
    }
    chromium.evaluate("fetch = really");

    // The link is opened in the very tab that asks for it.
    let link = String::from_utf8(server.causeway(&["sign-in"]).stdout).unwrap();
    chromium.open(link.trim());
    chromium.until("document.querySelectorAll('.device.attached').length === 1");
    chromium.until("document.getElementById('link').dataset.live === 'yes'");
    assert_eq!(
        chromium.evaluate("location.hash"),
        "",
        "the token is gone from the address"
    );
    assert_eq!(
        chromium.evaluate("document.cookie"),
        "",
        "no script can read the session"
    );

    server.verb(&["device", "add", "mynas"], "code");
    chromium.until("document.querySelectorAll('.device.not_paired').length === 1");
    let device = server.pair("mynas");
    chromium.until("document.querySelectorAll('.device.away').length === 1");
    let agent = device.run("http://127.0.0.1:1");
    chromium.until("document.querySelectorAll('.device.attached').length === 2");
    server.verb(&["device", "add", "garage"], "code");
    chromium.until("document.querySelectorAll('.device').length === 3");
    chromium.screenshot("devices");
    chromium.resize(390, 844);
    chromium.dark(true);
    assert_eq!(
        chromium.evaluate("document.documentElement.scrollWidth <= innerWidth"),
        true,
        "it fits a phone"
    );
    chromium.screenshot("devices-phone");
    agent.signal("-TERM");
    chromium.until("document.querySelectorAll('.device.away').length === 1");
    server.causeway(&["device", "remove", "mynas"]);
    chromium.until("document.querySelectorAll('.device').length === 2");

    chromium.evaluate("document.getElementById('sign-out').click()");
    chromium.until("document.title.startsWith('Sign in')");
}

#[test]
fn an_unreachable_device_is_an_error_that_can_be_looked_up() {
    let server = Server::start();
    let mut chromium = Chromium::start(&server);
    let error = chromium.fail_to_open(&server.url("nobody", "/"));
    assert_eq!(error, "net::ERR_SSL_UNRECOGNIZED_NAME_ALERT");
    chromium.open(&server.url("cloud", "/offline"));
    chromium.until("document.body.textContent.includes('ERR_SSL_UNRECOGNIZED_NAME_ALERT')");
    chromium.screenshot("offline");
}

/// An HTTP service that answers everybody with a text, and keeps the first lines of what it is asked.
struct Service {
    port: u16,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Service {
    /// Whoever reads `page` may be asked by a page from `reader`, as the same person (Fetch, section 3.3).
    fn start(page: &'static str, reader: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let asked = Arc::<Mutex<Vec<_>>>::default();
        let heard = Arc::clone(&asked);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (heard, reader) = (Arc::clone(&heard), reader.clone());
                thread::spawn(move || answer(&stream.unwrap(), page, &reader, &heard));
            }
        });
        Self { port, asked }
    }

    /// How often it was asked for `path`.
    fn asked(&self, path: &str) -> usize {
        let line = format!("GET {path} HTTP/1.1");
        let asked = self.asked.lock().unwrap();
        asked.iter().filter(|asked| **asked == line).count()
    }
}

/// Until the other end has gone.
fn answer(stream: &TcpStream, page: &str, reader: &str, heard: &Mutex<Vec<String>>) {
    let mut lines = BufReader::new(stream).lines().map_while(Result::ok);
    while let Some(asked) = lines.next() {
        heard.lock().unwrap().push(asked);
        lines.by_ref().find(String::is_empty);
        let answer = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: {}\r\nAccess-Control-Allow-Origin: {reader}\r\n\
             Access-Control-Allow-Credentials: true\r\nTiming-Allow-Origin: {reader}\r\n\r\n{page}",
            page.len()
        );
        if { stream }.write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}

/// One certificate covers them and one address leads to them, so Chromium asks all three where it has asked the first (RFC 9113
/// section 9.1.1).
#[test]
fn chromium_asks_several_services_over_one_connection_and_anew_where_that_is_wrong() {
    let server = Server::start();
    let reader = server.url("web.mynas", "");
    let [web, photos, shell] =
        ["<title>web</title>", "photos", "shell"].map(|page| Service::start(page, reader.clone()));
    let device = server.pair("mynas");
    let _agent = device.serve(&format!(
        "[services.web]\norigin = \"http://127.0.0.1:{}\"\n\
         [services.photos]\norigin = \"http://127.0.0.1:{}\"\n\
         [services.shell]\norigin = \"tcp://127.0.0.1:{}\"\n",
        web.port, photos.port, shell.port
    ));
    let mut chromium = Chromium::start(&server);
    chromium.open(&format!("{reader}/"));
    chromium.until("document.title === 'web'");
    let fetched = |name: &str, path: &str| {
        let url = server.url(name, path);
        format!(
            "fetch('{url}', {{ credentials: 'include' }}).then((answer) => answer.text()).then((text) => {{
               const [entry] = performance.getEntriesByName('{url}');
               return text + ' over ' + entry.nextHopProtocol; }})"
        )
    };
    let connections = || server.metric("causeway_relay_carriers_opened_total{kind=\"quic\"}");
    let before = connections();
    assert_eq!(
        chromium.evaluate(&fetched("photos.mynas", "/photo")),
        "photos over h2"
    );
    assert_eq!(
        chromium.evaluate(&fetched("web.mynas", "/note")),
        "<title>web</title> over h2"
    );
    assert_eq!(connections(), before, "on the connection that was there");
    assert_eq!((web.asked("/"), web.asked("/note")), (1, 1));
    assert_eq!((photos.asked("/photo"), photos.asked("/note")), (1, 0));

    // What is no HTTP to the agent has HTTP inside: the browser is told that it has come to the wrong place, and comes again.
    assert_eq!(
        chromium.evaluate(&fetched("shell.mynas", "/listing")),
        "shell over http/1.1"
    );
    assert!(connections() > before);
    assert_eq!(shell.asked("/listing"), 1);
    let mut status = device.place.command(causeway_agent());
    status
        .args(["status", "--json", "--state"])
        .arg(&device.state);
    let status: serde_json::Value = serde_json::from_slice(&run(status).stdout).unwrap();
    assert_eq!(status["refused"]["misdirected"], 1);
}
