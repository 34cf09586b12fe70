//! nginx as the service of a device: serves and takes files, and nothing else.

use std::net::TcpListener;
use std::path::PathBuf;

use tempfile::TempDir;

use crate::process::Process;
use crate::world::Place;

pub(crate) struct Nginx {
    _process: Process,
    pub(crate) port: u16,
    folder: TempDir,
}

impl Nginx {
    pub(crate) fn start(place: &Place) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let port = match place {
            // Nobody else lives there.
            Place::Namespace(_) => 8000,
            Place::Host => TcpListener::bind("127.0.0.1:0")
                .unwrap()
                .local_addr()
                .unwrap()
                .port(),
        };
        std::fs::create_dir(folder.path().join("www")).unwrap();
        let config = folder.path().join("nginx.conf");
        std::fs::write(&config, config_text(folder.path().to_str().unwrap(), port)).unwrap();
        let mut nginx = place.command("nginx");
        nginx.arg("-c").arg(&config).args(["-g", "daemon off;"]);
        let process = Process::start(nginx);
        process.until_said("start worker process");
        Self {
            _process: process,
            port,
            folder,
        }
    }

    pub(crate) fn origin(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// A file that it serves at `/<name>`, or has received there.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join("www").join(name)
    }
}

fn config_text(folder: &str, port: u16) -> String {
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
                listen 127.0.0.1:{port};
                root {folder}/www;
                location / {{ dav_methods PUT; }}
            }}
        }}
        "
    )
}
