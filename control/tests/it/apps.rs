//! Services that are no web pages, for programs that people have, by way of `causeway-connect`.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::process::{Process, output_of, run, run_for};
use crate::sshd::{Sshd, free_port};
use crate::transfer::{MIB, sha256, write_random};
use crate::world::{Server, causeway_connect};

/// What moves much is done by then.
const LONG: Duration = Duration::from_secs(240);

/// A service for apps, as the agent's configuration describes it.
fn service(name: &str, origin: &str) -> String {
    format!("[services.{name}]\norigin = \"{origin}\"\nreach = \"apps\"\n")
}

/// `causeway-connect` to the device `mynas` of `server`.
fn connect(server: &Server, options: &[&str]) -> Command {
    let mut connect = Command::new(causeway_connect());
    connect.args(["--at", &server.ready.front.to_string(), "--ca"]);
    connect.arg(&server.ready.ca);
    connect.arg(format!("mynas.{}", server.ready.zone));
    connect.args(options);
    connect
}

/// The same as a shell would have it written.
fn in_words(command: &Command) -> String {
    let words = [command.get_program()]
        .into_iter()
        .chain(command.get_args());
    let words: Vec<_> = words.map(|word| word.to_str().unwrap()).collect();
    words.join(" ")
}

/// A port of this machine that leads to `service`, for as long as the process is kept.
fn port_to(server: &Server, service: &str) -> (Process, u16) {
    let process = Process::start(connect(server, &[service, "--listen", "127.0.0.1:0"]));
    let said = process.until_said(&format!("{service} of mynas"));
    let port = said.trim().rsplit_once(':').unwrap().1.parse().unwrap();
    (process, port)
}

/// An ssh server, and the agent of the device `mynas` that has it for apps.
fn sshd_for_apps(server: &Server) -> (Sshd, Process) {
    let sshd = Sshd::start(server.folder.path());
    let origin = format!("tcp://127.0.0.1:{}", sshd.port);
    let agent = server.pair("mynas").serve(&service("ssh", &origin));
    (sshd, agent)
}

fn user() -> String {
    output_of(Command::new("whoami")).trim().to_owned()
}

#[test]
fn ssh_scp_sftp_and_rsync_come_by_a_proxy_command() {
    const FILES: usize = 10_000;
    let server = Server::start();
    let folder = server.folder.path();
    let (sshd, _agent) = sshd_for_apps(&server);
    let way = in_words(&connect(&server, &["ssh", "-W"]));
    let there = format!("{}@mynas", user());

    let mut ssh = sshd.client("ssh", Some(&way));
    ssh.args([&there, "echo", "hello", "there"]);
    assert_eq!(output_of(ssh), "hello there\n");

    let [file, by_scp, by_sftp] = ["file", "by_scp", "by_sftp"].map(|name| folder.join(name));
    write_random(&file, 64 * MIB);
    let mut scp = sshd.client("scp", Some(&way));
    scp.arg(&file).arg(format!("{there}:{}", by_scp.display()));
    let copied = run_for(scp, LONG);
    assert!(
        copied.status.success(),
        "{}",
        String::from_utf8_lossy(&copied.stderr)
    );
    assert!(sha256(&file) == sha256(&by_scp));

    let batch = folder.join("batch");
    fs::write(
        &batch,
        format!("get {} {}\n", by_scp.display(), by_sftp.display()),
    )
    .unwrap();
    let mut sftp = sshd.client("sftp", Some(&way));
    sftp.arg("-b").arg(&batch).arg(&there);
    let copied = run_for(sftp, LONG);
    assert!(
        copied.status.success(),
        "{}",
        String::from_utf8_lossy(&copied.stderr)
    );
    assert!(sha256(&file) == sha256(&by_sftp));

    let [many, arrived] = ["many", "arrived"].map(|name| folder.join(name));
    for number in 0..FILES {
        let place = many.join((number % 100).to_string());
        if number < 100 {
            fs::create_dir_all(&place).unwrap();
        }
        fs::write(
            place.join(number.to_string()),
            format!("{number} ").repeat(number % 500),
        )
        .unwrap();
    }
    let ssh = format!(
        "ssh {}",
        sshd.options(Some(&way))
            .iter()
            .map(|word| format!("'{word}'"))
            .collect::<Vec<_>>()
            .join(" ")
    );
    let mut rsync = Command::new("rsync");
    rsync.args(["--archive", "--rsh", &ssh, &format!("{}/", many.display())]);
    rsync.arg(format!("{there}:{}/", arrived.display()));
    let copied = run_for(rsync, LONG);
    assert!(
        copied.status.success(),
        "{}",
        String::from_utf8_lossy(&copied.stderr)
    );
    let mut diff = Command::new("diff");
    diff.args(["--recursive", "--brief"])
        .arg(&many)
        .arg(&arrived);
    assert_eq!(output_of(diff), "");
    let count = |folder: &Path| fs::read_dir(folder).unwrap().count();
    assert_eq!(
        (count(&arrived), count(&arrived.join("7"))),
        (100, FILES / 100)
    );
}

#[test]
fn a_webdav_service_is_mounted_by_a_port() {
    let server = Server::start();
    let folder = server.folder.path();
    let [file, served, mounted, back] =
        ["file", "served", "mounted", "back"].map(|name| folder.join(name));
    fs::create_dir(&served).unwrap();
    fs::create_dir(&mounted).unwrap();
    write_random(&file, 16 * MIB);
    let at = format!("127.0.0.1:{}", free_port());
    let mut webdav = Command::new("rclone");
    webdav
        .args(["serve", "webdav", "--verbose", "--addr", &at])
        .arg(&served);
    let webdav = Process::start(webdav);
    webdav.until_said("WebDav Server started");
    let files = service("files", &format!("http://{at}")) + "visitor_address = \"hidden\"\n";
    let _agent = server.pair("mynas").serve(&files);
    let (_connect, port) = port_to(&server, "files");
    let configuration = folder.join("davfs2.conf");
    fs::write(&configuration, "ask_auth 0\nuse_locks 0\n").unwrap();
    // What is written is there once it is unmounted.
    // It becomes a user of its own, for whom there is a cache.
    let script = "set -e; mount -t tmpfs -o mode=775,gid=davfs2,uid=davfs2 tmpfs /var/cache/davfs2; \
                  mount_it() { mount.davfs -o \"conf=$1\" \"http://127.0.0.1:$2/\" \"$3\"; }; \
                  mount_it \"$@\"; cp \"$4\" \"$3/there\"; umount \"$3\"; \
                  mount_it \"$@\"; cp \"$3/there\" \"$5\"; umount \"$3\"";
    let mut mount = Command::new("unshare");
    mount
        .args(["--mount", "sh", "-c", script, "sh"])
        .arg(&configuration);
    mount.arg(port.to_string()).args([&mounted, &file, &back]);
    let done = run_for(mount, LONG);
    assert!(
        done.status.success(),
        "{}",
        String::from_utf8_lossy(&done.stderr)
    );
    assert!(sha256(&file) == sha256(&served.join("there")));
    assert!(sha256(&file) == sha256(&back));
}

#[test]
fn an_smb_share_is_read_and_written_by_a_port() {
    let server = Server::start();
    let folder = server.folder.path();
    let [file, share, back] = ["file", "share", "back"].map(|name| folder.join(name));
    fs::create_dir(&share).unwrap();
    write_random(&file, 64 * MIB);
    let smb_port = free_port();
    let state = folder.join("samba");
    fs::create_dir(&state).unwrap();
    let mut configuration = format!(
        "[global]\nserver role = standalone server\nsmb ports = {smb_port}\ninterfaces = lo\nbind interfaces only = yes\n\
         map to guest = Bad User\nload printers = no\ndisable spoolss = yes\n"
    );
    for kind in [
        "private dir",
        "lock directory",
        "state directory",
        "cache directory",
        "pid directory",
        "ncalrpc dir",
    ] {
        configuration += &format!("{kind} = {}\n", state.display());
    }
    configuration += &format!(
        "[share]\npath = {}\nguest ok = yes\nread only = no\nforce user = {}\n",
        share.display(),
        user()
    );
    let path = folder.join("smb.conf");
    fs::write(&path, configuration).unwrap();
    let mut smbd = Command::new("/usr/sbin/smbd");
    smbd.args([
        "--foreground",
        "--no-process-group",
        "--debug-stdout",
        "--debuglevel=1",
        "--configfile",
    ]);
    smbd.arg(&path);
    let smbd = Process::start(smbd);
    crate::process::until(
        || std::net::TcpStream::connect(("127.0.0.1", smb_port)).is_ok(),
        || smbd.said(),
    );
    let origin = format!("tcp://127.0.0.1:{smb_port}");
    let _agent = server.pair("mynas").serve(&service("smb", &origin));
    let (_connect, port) = port_to(&server, "smb");
    let mut client = Command::new("smbclient");
    client.arg("--configfile").arg(&path);
    client.args([
        "--no-pass",
        "--port",
        &port.to_string(),
        "//127.0.0.1/share",
        "--command",
    ]);
    client.arg(format!(
        "put {} there; get there {}",
        file.display(),
        back.display()
    ));
    let done = run_for(client, LONG);
    let said = String::from_utf8_lossy(&done.stdout);
    assert!(done.status.success(), "{said}\n{}", smbd.said());
    assert!(sha256(&file) == sha256(&share.join("there")));
    assert!(sha256(&file) == sha256(&back));
}

#[test]
fn curl_finds_services_by_name_behind_a_socks_port() {
    let server = Server::start();
    let nginx = crate::nginx::Nginx::told_of_the_visitor(&crate::world::Place::Host);
    let photos = service("photos", &nginx.origin()) + "visitor_address = \"hidden\"\n";
    let _agent = server.pair("mynas").serve(&photos);
    let process = Process::start(connect(&server, &["--socks", "127.0.0.1:0"]));
    let said = process.until_said("SOCKS 5 at");
    let socks = said.trim().rsplit_once(' ').unwrap().1;
    let curl = |host: &str| {
        let mut curl = Command::new("curl");
        curl.args([
            "--silent",
            "--show-error",
            "--proxy",
            &format!("socks5h://{socks}"),
        ]);
        curl.args(["--write-out", "%{http_code}", "--output", "/dev/null"]);
        curl.arg(format!("http://{host}/"));
        run(curl)
    };
    for host in [
        "photos".to_owned(),
        format!("photos.mynas.{}", server.ready.zone),
    ] {
        assert_eq!(
            String::from_utf8(curl(&host).stdout).unwrap(),
            "200",
            "{host}"
        );
    }
    let refused = curl("www.example.com");
    assert_eq!(refused.status.code(), Some(97), "{refused:?}"); // curl's "the proxy has refused"
    process.until_said("\"www.example.com\" is no service of this device");
}

#[test]
fn who_does_it_wrong_hears_what_is_wrong() {
    let server = Server::start();
    let _agent = server
        .pair("mynas")
        .serve(&service("ssh", "tcp://127.0.0.1:9"));
    let said = |mut command: Command| {
        command.stdin(Stdio::null());
        let output = run(command);
        assert!(!output.status.success());
        String::from_utf8(output.stderr).unwrap()
    };
    let host = format!("mynas.{}", server.ready.zone);
    assert_eq!(
        said(connect(&server, &["telnet", "-W"])),
        format!("causeway-connect: {host} has no service \"telnet\" for apps\n")
    );
    assert_eq!(
        said(connect(&server, &["ssh", "-W"])),
        format!("causeway-connect: the service \"ssh\" of {host} does not answer its agent\n")
    );
    let listening = said(connect(&server, &["ssh", "--listen", "0.0.0.0:0"]));
    assert!(listening.contains("--share"), "{listening}");
    let mut other = Command::new(causeway_connect());
    other
        .args(["--at", &server.ready.front.to_string(), "--ca"])
        .arg(&server.ready.ca);
    other.args([&format!("nobody.{}", server.ready.zone), "ssh", "-W"]);
    let absent = said(other);
    assert!(
        absent.contains("cannot be reached: there is no such device"),
        "{absent}"
    );
    let mut distrusting = Command::new(causeway_connect());
    distrusting.args(["--at", &server.ready.front.to_string(), &host, "ssh", "-W"]);
    let distrust = said(distrusting);
    assert!(
        distrust.contains("is not to be trusted") || distrust.contains("no certificates"),
        "{distrust}"
    );
}
