//! What the server asks of the kernel, as strace(1) sees it.

use crate::child::{Server, directory, on_disk, password};
use crate::dns::{ask_tcp, ask_udp};
use crate::http::dyn2;
use crate::signing::{Signer, update};

#[tokio::test(flavor = "multi_thread")]
async fn the_log_is_synced_before_an_update_is_acknowledged() {
    let (state, trace) = (on_disk(), on_disk());
    let trace = trace.path().join("trace");
    let calls = "trace=fdatasync,fsync,write,writev,pwrite64,sendto,sendmsg,sendmmsg";
    let by = [
        "strace",
        "-f",
        "-qq",
        "-yy",
        "-e",
        calls,
        "-o",
        trace.to_str().unwrap(),
    ];
    let mut server = Server::spawn(state.path(), &by);
    let at = server.ready();
    let signer = Signer::of("d0", &directory());
    for octet in 1..=5 {
        for (tcp, network) in [(true, "198.51.100"), (false, "203.0.113")] {
            let statements = format!("add d0.nas.test A {network}.{octet}");
            let message = signer.sign(&update("nas.test", &statements));
            let reply = match tcp {
                true => ask_tcp(at.dns, &message.octets).await.unwrap(),
                false => ask_udp(at.dns, &message.octets).await,
            };
            assert_eq!(reply[3], 0);
            assert!(signer.is_signed(&message, &reply));
        }
        let query = format!("hostname=d0.nas.test&myip=192.0.2.{octet}");
        let told = dyn2(at.http, "d0", &password(0), &query).await;
        assert_eq!(told, format!("good 192.0.2.{octet}\n"));
    }
    server.end();

    let trace = std::fs::read_to_string(trace).unwrap();
    let (_, serving) = trace.split_once("ready ").unwrap();
    let seen: Vec<_> = serving.lines().filter_map(step).collect();
    let one = [Step::Append, Step::Synced, Step::Reply];
    assert_eq!(seen, one.repeat(3 * 5), "{serving}");
}

/// What matters of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// Something is being written to the log.
    Append,
    /// The log has been synced.
    Synced,
    /// Something is being sent.
    Reply,
}

/// `<thread> <call>(<descriptor><<what it is>>, …) = <result>`. A call during which another thread is seen has two lines, of which
/// the second begins `<thread> <... <call> resumed>`.
fn step(line: &str) -> Option<Step> {
    let (_, call) = line.trim_start().split_once(' ')?;
    let call = call.trim_start();
    let begins = |names: &[&str]| {
        let (name, _) = call.split_once('(').unwrap_or_default();
        names.contains(&name)
    };
    let is_sync = begins(&["fdatasync"]) || call.starts_with("<... fdatasync resumed>");
    let of_log = call.contains("/ddns.log.");
    let of_socket = call.contains("<TCP") || call.contains("<UDP");
    if is_sync && call.ends_with("= 0") {
        Some(Step::Synced)
    } else if begins(&["write", "writev", "pwrite64"]) && of_log {
        Some(Step::Append)
    } else if begins(&["write", "writev", "sendto", "sendmsg", "sendmmsg"]) && of_socket {
        Some(Step::Reply)
    } else {
        None
    }
}
