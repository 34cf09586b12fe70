//! nginx as the service of a device: serves and takes files, and nothing else.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::process::{Process, output_of};
use crate::world::Place;

pub(crate) struct Nginx {
    pub(crate) process: Process,
    pub(crate) port: u16,
    folder: TempDir,
}

impl Nginx {
    /// Serves and takes files over plain HTTP.
    pub(crate) fn start(place: &Place) -> Self {
        Self::with(place, "", "dav_methods PUT;")
    }

    /// Says over TLS, with a certificate that it has made itself, who it thinks the visitor is.
    pub(crate) fn over_tls(place: &Place) -> Self {
        Self::with(
            place,
            "ssl",
            "return 200 \"$http_x_forwarded_for over $scheme\";",
        )
    }

    /// Says who came by the PROXY protocol, which it insists on.
    pub(crate) fn behind_proxy_protocol(place: &Place) -> Self {
        Self::with(
            place,
            "proxy_protocol",
            "return 200 \"$proxy_protocol_addr\";",
        )
    }

    /// Says all that it has heard of the visitor, in the fields that services believe.
    pub(crate) fn told_of_the_visitor(place: &Place) -> Self {
        let told = "$http_forwarded|$http_x_forwarded_for|$http_x_forwarded_proto|$http_x_forwarded_host|\
                    $http_x_forwarded_server$http_x_real_ip$http_true_client_ip$http_cf_connecting_ip$http_x_client_ip\
                    $http_x_cluster_client_ip$http_x_original_forwarded_for";
        Self::with(place, "", &format!("return 200 \"{told}\";"))
    }

    fn with(place: &Place, listen: &str, location: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let port = match place {
            // Nobody else lives there.
            Place::Namespace(_) | Place::Furnished(..) => 8000,
            Place::Host | Place::Refusing(_) | Place::SmallDisk(_) => {
                TcpListener::bind("127.0.0.1:0")
                    .unwrap()
                    .local_addr()
                    .unwrap()
                    .port()
            }
        };
        std::fs::create_dir(folder.path().join("www")).unwrap();
        certify("IP:127.0.0.1", folder.path());
        let config = folder.path().join("nginx.conf");
        std::fs::write(
            &config,
            config_text(folder.path().to_str().unwrap(), port, listen, location),
        )
        .unwrap();
        let mut nginx = place.command("nginx");
        nginx.arg("-c").arg(&config).args([
            "-g",
            "daemon off; master_process off;", // one process, so that nothing of it is left when that is killed
        ]);
        let process = Process::start(nginx);
        process.until_said("event method"); // it listens by then
        Self {
            process,
            port,
            folder,
        }
    }

    pub(crate) fn origin(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The certificate that it has made itself.
    pub(crate) fn certificate(&self) -> PathBuf {
        self.folder.path().join("cert.pem")
    }

    /// A file that it serves at `/<name>`, or has received there.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join("www").join(name)
    }
}

fn config_text(folder: &str, port: u16, listen: &str, location: &str) -> String {
    format!(
        "
        worker_processes 1;
        user root;
        pid {folder}/pid;
        error_log stderr notice;
        events {{ worker_connections 4096; }}
        http {{
            access_log off;
            sendfile on;
            client_max_body_size 0;
            client_body_temp_path {folder}/body;
            proxy_temp_path {folder}/proxy;
            fastcgi_temp_path {folder}/fastcgi;
            uwsgi_temp_path {folder}/uwsgi;
            scgi_temp_path {folder}/scgi;
            server {{
                listen 127.0.0.1:{port} {listen};
                ssl_certificate {folder}/cert.pem;
                ssl_certificate_key {folder}/key.pem;
                root {folder}/www;
                location / {{ {location} }}
            }}
        }}
        "
    )
}

/// Leaves a certificate for `name` that vouches for itself in `folder`: `cert.pem`, and `key.pem`.
pub(crate) fn certify(name: &str, folder: &Path) {
    let mut openssl = Command::new("openssl");
    openssl.args([
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-days",
        "2",
    ]);
    openssl.args(["-subj", "/CN=service", "-addext"]);
    openssl.arg(format!("subjectAltName={name}"));
    openssl.arg("-keyout").arg(folder.join("key.pem"));
    openssl.arg("-out").arg(folder.join("cert.pem"));
    output_of(openssl);
}
