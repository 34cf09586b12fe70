//! A DNS client of its own: it shares no code with the server, so that the two cannot be wrong together.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) const TYPES: [(&str, u16); 24] = [
    ("A", 1),
    ("NS", 2),
    ("CNAME", 5),
    ("SOA", 6),
    ("PTR", 12),
    ("MX", 15),
    ("TXT", 16),
    ("AAAA", 28),
    ("SRV", 33),
    ("NAPTR", 35),
    ("DNAME", 39),
    ("OPT", 41),
    ("DS", 43),
    ("RRSIG", 46),
    ("NSEC", 47),
    ("DNSKEY", 48),
    ("NSEC3PARAM", 51),
    ("TLSA", 52),
    ("SVCB", 64),
    ("HTTPS", 65),
    ("CAA", 257),
    ("IXFR", 251),
    ("AXFR", 252),
    ("ANY", 255),
];
const CLASSES: [(&str, u16); 4] = [("IN", 1), ("CH", 3), ("NONE", 254), ("ANY", 255)];

/// What to ask, as the words of a recipe: a name and a type, or `nothing`, and options.
pub(crate) fn query(words: &[&str]) -> Vec<u8> {
    let (question, options) = match words {
        ["nothing", options @ ..] => (None, options),
        [name, rtype, options @ ..] => (Some((name, rtype)), options),
        _ => panic!("name and type are missing"),
    };
    let (mut flags, mut class, mut edns) = (0_u16, 1, None::<Edns>);
    for option in options {
        let (key, value) = option.split_once('=').unwrap_or((option, ""));
        let number = || value.parse::<u16>().unwrap();
        match key {
            "aa" => flags |= 0x0400,
            "tc" => flags |= 0x0200,
            "rd" => flags |= 0x0100,
            "ra" => flags |= 0x0080,
            "z" => flags |= 0x0040,
            "ad" => flags |= 0x0020,
            "cd" => flags |= 0x0010,
            "rcode" => flags |= number(),
            "opcode" => flags |= number() << 11,
            "class" => class = number_of(value, &CLASSES),
            "edns" if value.is_empty() => _ = edns.get_or_insert_default(),
            "edns" => edns.get_or_insert_default().version = value.parse().unwrap(),
            "size" => edns.get_or_insert_default().size = number(),
            "do" => edns.get_or_insert_default().flags |= 0x8000,
            "flags" => {
                edns.get_or_insert_default().flags |= u16::from_str_radix(value, 16).unwrap();
            }
            "option" => {
                let (code, data) = value.split_once(':').unwrap_or((value, ""));
                let edns = edns.get_or_insert_default();
                edns.add(code.parse().unwrap(), &unhex(data));
            }
            "cookie" => edns.get_or_insert_default().add(COOKIE, &unhex(value)),
            "nsid" => edns.get_or_insert_default().add(NSID, &[]),
            "zoneversion" => edns.get_or_insert_default().add(ZONEVERSION, &[]),
            _ => panic!("no such option: {option}"),
        }
    }
    let mut message = vec![0xAB, 0xCD];
    message.extend(flags.to_be_bytes());
    message.extend([0, u8::from(question.is_some()), 0, 0, 0, 0, 0]);
    message.push(u8::from(edns.is_some()));
    if let Some((name, rtype)) = question {
        message.extend(wire(name));
        message.extend(number_of(rtype, &TYPES).to_be_bytes());
        message.extend(class.to_be_bytes());
    }
    if let Some(edns) = edns {
        message.extend([0, 0, 41]);
        message.extend(edns.size.to_be_bytes());
        message.extend([0, edns.version]);
        message.extend(edns.flags.to_be_bytes());
        message.extend((edns.options.len() as u16).to_be_bytes());
        message.extend(edns.options);
    }
    message
}

struct Edns {
    version: u8,
    size: u16,
    flags: u16,
    options: Vec<u8>,
}

const TSIG: u16 = 250;
const NSID: u16 = 3;
const COOKIE: u16 = 10;
const EDE: u16 = 15;
const ZONEVERSION: u16 = 19;

impl Edns {
    fn add(&mut self, code: u16, data: &[u8]) {
        self.options.extend(code.to_be_bytes());
        self.options.extend((data.len() as u16).to_be_bytes());
        self.options.extend(data);
    }
}

impl Default for Edns {
    fn default() -> Self {
        Self {
            version: 0,
            size: 1232,
            flags: 0,
            options: Vec::new(),
        }
    }
}

/// Sends one datagram and returns what comes back.
pub(crate) async fn ask_udp(server: SocketAddr, message: &[u8]) -> Vec<u8> {
    let socket = udp_socket(server).await;
    socket.send(message).await.unwrap();
    receive(&socket).await
}

/// A socket that hears only `server`.
pub(crate) async fn udp_socket(server: SocketAddr) -> UdpSocket {
    let any: IpAddr = if server.is_ipv4() {
        Ipv4Addr::UNSPECIFIED.into()
    } else {
        Ipv6Addr::UNSPECIFIED.into()
    };
    let socket = UdpSocket::bind((any, 0)).await.unwrap();
    socket.connect(server).await.unwrap();
    socket
}

pub(crate) async fn receive(socket: &UdpSocket) -> Vec<u8> {
    let mut reply = vec![0; 65_535];
    let len = timeout(PATIENCE, socket.recv(&mut reply))
        .await
        .expect("no reply by UDP")
        .unwrap();
    reply.truncate(len);
    reply
}

/// Sends one message on a connection of its own; `None` if it is closed without a reply.
pub(crate) async fn ask_tcp(server: SocketAddr, message: &[u8]) -> Option<Vec<u8>> {
    let mut stream = TcpStream::connect(server).await.unwrap();
    stream.write_all(&framed(message)).await.unwrap();
    timeout(PATIENCE, read_framed(&mut stream))
        .await
        .expect("no reply by TCP")
}

pub(crate) fn framed(message: &[u8]) -> Vec<u8> {
    [&(message.len() as u16).to_be_bytes()[..], message].concat()
}

pub(crate) async fn read_framed(stream: &mut (impl AsyncRead + Unpin)) -> Option<Vec<u8>> {
    let len = stream.read_u16().await.ok()?;
    let mut reply = vec![0; len.into()];
    stream.read_exact(&mut reply).await.ok()?;
    Some(reply)
}

/// The addresses that `name` has over UDP, in the words of a recipe's answer; or the rcode if there are none.
pub(crate) async fn resolve(server: SocketAddr, name: &str, rtype: &str) -> String {
    let lines = decode(&ask_udp(server, &query(&[name, rtype])).await);
    let data: Vec<_> = lines
        .iter()
        .filter(|line| line.starts_with("answer "))
        .map(|line| line.split(' ').skip(4).collect::<Vec<_>>().join(" "))
        .collect();
    if data.is_empty() {
        lines[0].split(' ').next().unwrap().to_owned()
    } else {
        data.join(" ")
    }
}

/// A message as lines of text: code and flags, then question, answer, authority and additional, a line each.
pub(crate) fn decode(message: &[u8]) -> Vec<String> {
    let mut reader = Reader { message, at: 0 };
    assert_eq!(reader.u16(), 0xABCD, "another id than was asked with");
    let flags = reader.u16();
    let counts = [reader.u16(), reader.u16(), reader.u16(), reader.u16()];
    let mut lines = Vec::new();
    for _ in 0..counts[0] {
        let name = reader.name();
        let rtype = name_of(reader.u16(), &TYPES, "TYPE");
        let class = match reader.u16() {
            1 => String::new(),
            class => format!(" {}", name_of(class, &CLASSES, "CLASS")),
        };
        lines.push(format!("question {name} {rtype}{class}"));
    }
    let mut rcode = flags & 0xF;
    for (section, count) in ["answer", "authority", "additional"]
        .iter()
        .zip(&counts[1..])
    {
        for _ in 0..*count {
            lines.push(reader.record(section, &mut rcode));
        }
    }
    assert_eq!(reader.at, message.len(), "octets behind the last record");
    lines.insert(0, head(flags, rcode));
    lines
}

fn head(flags: u16, rcode: u16) -> String {
    const RCODES: [(&str, u16); 13] = [
        ("NOERROR", 0),
        ("FORMERR", 1),
        ("SERVFAIL", 2),
        ("NXDOMAIN", 3),
        ("NOTIMP", 4),
        ("REFUSED", 5),
        ("YXDOMAIN", 6),
        ("YXRRSET", 7),
        ("NXRRSET", 8),
        ("NOTAUTH", 9),
        ("NOTZONE", 10),
        ("BADVERS", 16),
        ("BADCOOKIE", 23),
    ];
    const BITS: [(&str, u16); 8] = [
        ("qr", 0x8000),
        ("aa", 0x0400),
        ("tc", 0x0200),
        ("rd", 0x0100),
        ("ra", 0x0080),
        ("z", 0x0040),
        ("ad", 0x0020),
        ("cd", 0x0010),
    ];
    assert_ne!(flags & 0x8000, 0, "not a reply");
    let mut head = name_of(rcode, &RCODES, "RCODE");
    for (name, _) in BITS.iter().skip(1).filter(|(_, bit)| flags & bit != 0) {
        head = format!("{head} {name}");
    }
    match (flags >> 11) & 0xF {
        0 => head,
        opcode => format!("{head} opcode={opcode}"),
    }
}

struct Reader<'m> {
    message: &'m [u8],
    at: usize,
}

impl Reader<'_> {
    fn take(&mut self, len: usize) -> &[u8] {
        self.at += len;
        &self.message[self.at - len..self.at]
    }

    fn u8(&mut self) -> u8 {
        self.take(1)[0]
    }

    fn u16(&mut self) -> u16 {
        u16::from_be_bytes(self.take(2).try_into().unwrap())
    }

    fn u32(&mut self) -> u32 {
        u32::from_be_bytes(self.take(4).try_into().unwrap())
    }

    fn name(&mut self) -> String {
        let mut name = String::new();
        loop {
            match self.u8() {
                0 => break,
                len if len < 64 => {
                    name += &self.take(len.into()).escape_ascii().to_string();
                    name.push('.');
                }
                high => {
                    let at = usize::from(high & 0x3F) << 8 | usize::from(self.u8());
                    let message = self.message;
                    assert!(at < self.at - 2, "a pointer that does not lead back");
                    return name + &Reader { message, at }.name();
                }
            }
        }
        if name.is_empty() { ".".into() } else { name }
    }

    fn record(&mut self, section: &str, rcode: &mut u16) -> String {
        let name = self.name();
        let rtype = self.u16();
        let class = self.u16();
        let ttl = self.u32();
        let len = usize::from(self.u16());
        let end = self.at + len;
        if rtype == 41 {
            assert_eq!((section, name.as_str()), ("additional", "."));
            *rcode |= ((ttl >> 24) as u16) << 4;
            let mut line = format!("opt version={} size={class}", (ttl >> 16) & 0xFF);
            if ttl & 0x8000 != 0 {
                line += " do";
            }
            if ttl & 0x7FFF != 0 {
                line += &format!(" flags={:04x}", ttl & 0x7FFF);
            }
            while self.at < end {
                line = format!("{line} {}", self.option());
            }
            assert_eq!(self.at, end, "options longer than the record");
            return line;
        }
        if rtype == TSIG {
            assert_eq!((section, class, ttl), ("additional", 255, 0));
            return self.tsig(&name);
        }
        assert_eq!(class, 1);
        let data = match rtype {
            1 => Ipv4Addr::from_octets(self.take(4).try_into().unwrap()).to_string(),
            28 => Ipv6Addr::from_octets(self.take(16).try_into().unwrap()).to_string(),
            2 => self.name(),
            6 => {
                let names = format!("{} {}", self.name(), self.name());
                (0..5).fold(names, |line, _| format!("{line} {}", self.u32()))
            }
            16 => self.texts(end),
            257 => self.caa(end),
            _ => hex(self.take(len)),
        };
        assert_eq!(self.at, end, "data longer or shorter than it says");
        format!(
            "{section} {name} {ttl} {} {data}",
            name_of(rtype, &TYPES, "TYPE")
        )
    }

    fn tsig(&mut self, key: &str) -> String {
        const ERRORS: [(&str, u16); 4] = [
            ("BADSIG", 16),
            ("BADKEY", 17),
            ("BADTIME", 18),
            ("BADTRUNC", 22),
        ];
        let algorithm = self.name();
        self.take(6);
        let fudge = self.u16();
        let mac_len = self.u16();
        self.take(mac_len.into());
        self.take(2);
        let mut line = format!("tsig {key} {algorithm} fudge={fudge} mac={mac_len}");
        match self.u16() {
            0 => {}
            error => line = format!("{line} {}", name_of(error, &ERRORS, "ERROR")),
        }
        match self.u16() {
            0 => {}
            len => line = format!("{line} other={}", hex(self.take(len.into()))),
        }
        line
    }

    fn option(&mut self) -> String {
        let code = self.u16();
        let len = usize::from(self.u16());
        let data = self.take(len);
        match (code, data) {
            (COOKIE, _) => format!("cookie={}", hex(data)),
            (NSID, _) => format!("nsid={}", data.escape_ascii()),
            (EDE, [high, low, text @ ..]) => {
                let code = u16::from_be_bytes([*high, *low]);
                format!("ede={code}{}", text.escape_ascii())
            }
            (ZONEVERSION, [labels, 0, s0, s1, s2, s3]) => {
                let serial = u32::from_be_bytes([*s0, *s1, *s2, *s3]);
                format!("zoneversion={labels}:{serial}")
            }
            _ => format!("option={code}:{}", hex(data)),
        }
    }

    fn caa(&mut self, end: usize) -> String {
        let (flags, len) = (self.u8(), self.u8());
        let tag = self.take(len.into()).escape_ascii().to_string();
        let value = self.take(end - self.at).escape_ascii().to_string();
        format!("{flags} {tag} \"{value}\"")
    }

    fn texts(&mut self, end: usize) -> String {
        let mut texts = Vec::new();
        while self.at < end {
            let len = self.u8();
            texts.push(format!("\"{}\"", self.take(len.into()).escape_ascii()));
        }
        texts.join(" ")
    }
}

pub(crate) fn wire(name: &str) -> Vec<u8> {
    let mut wire = Vec::new();
    for label in name.split('.').filter(|label| !label.is_empty()) {
        wire.push(label.len() as u8);
        wire.extend(label.as_bytes());
    }
    wire.push(0);
    wire
}

/// `TYPE1000` and `CLASS9` are numbers too.
pub(crate) fn number_of(word: &str, table: &[(&str, u16)]) -> u16 {
    let known = table.iter().find(|(name, _)| *name == word);
    known.map_or_else(
        || {
            let digits = word.trim_start_matches(|c: char| c.is_ascii_alphabetic());
            digits
                .parse()
                .unwrap_or_else(|_| panic!("no such word: {word}"))
        },
        |(_, number)| *number,
    )
}

fn name_of(number: u16, table: &[(&str, u16)], prefix: &str) -> String {
    let known = table.iter().find(|(_, known)| *known == number);
    known.map_or_else(|| format!("{prefix}{number}"), |(name, _)| (*name).into())
}

pub(crate) fn unhex(text: &str) -> Vec<u8> {
    let digits: Vec<_> = text.chars().filter(|c| !c.is_whitespace()).collect();
    digits
        .chunks(2)
        .map(|pair| u8::from_str_radix(&pair.iter().collect::<String>(), 16).unwrap())
        .collect()
}

pub(crate) fn hex(octets: &[u8]) -> String {
    octets.iter().map(|octet| format!("{octet:02x}")).collect()
}
