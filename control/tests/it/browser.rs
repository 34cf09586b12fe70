//! People's way: Chromium, by name, through the relay, with the demo's authority trusted in its certificate database.

use crate::chromium::Chromium;
use crate::world::Server;

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
