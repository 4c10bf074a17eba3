use sluice::*;
use std::time::Duration;
#[global_allocator]
static GLOBAL: mimalloc::MiMalloc = mimalloc::MiMalloc;
fn main() {
    assert!(sys::allocator::adopt_openssl());
    tracing_subscriber::fmt().with_env_filter(std::env::var("LOG").unwrap_or("info".into())).with_writer(std::io::stderr).init();
    let a: Vec<String> = std::env::args().collect();
    let settings = server::Settings {
        workers: worker::Settings { cpus: vec![0], io: if a.get(5).is_some() { worker::IoDriver::Epoll } else { worker::IoDriver::Auto }, connections_max: 20000, buffer_bytes_max: 64<<20 },
        admin: admin::Settings { address: None },
        tickets: ticket::Settings { ring: None, lifetime: Duration::from_secs(3600), count: std::env::var("TICKETS").map_or(2, |t| t.parse().unwrap()) },
        listeners: vec![worker::ListenerSettings { name: "edge".into(), address: a[1].parse().unwrap(), backend: 0,
          tls: tls::Settings { policy: tls::Policy::Intermediate, certificate: tls::CertificateFiles { chain: a[3].clone().into(), key: a[4].clone().into() }, alpn: vec!["http/1.1".into()] },
          kernel_tls: ktls::Settings { mode: ktls::Mode::Off, promote_after_bytes: 0 },
          timeouts: worker::Timeouts { handshake: Duration::from_secs(10), idle: Duration::from_secs(300), close: Duration::from_secs(10) } }],
        backends: vec![backend::Settings { name: "app".into(), servers: vec![backend::ServerAddress::Tcp(a[2].parse().unwrap())], connect_timeout: Duration::from_secs(5) }],
        drain_timeout: Duration::from_secs(5),
    };
    let s = server::Server::start(&settings).unwrap();
    eprintln!("{:?} {}", s.addresses(), s.ring().name());
    let m = s.metrics()[0].clone();
    std::thread::spawn(move || loop { std::thread::sleep(Duration::from_secs(2)); if std::env::var("METRICS").is_ok() { eprintln!("{m:?}"); } });
    s.wait().unwrap();
}
