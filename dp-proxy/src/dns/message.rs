//! Questions and answers as bytes (RFC 1035, RFC 2782). The `simple-dns` crate reads and writes them, and is named here alone.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use simple_dns::rdata::RData;
use simple_dns::{CLASS, Name, OPCODE, Packet, PacketFlag, QCLASS, QTYPE, RCODE, ResourceRecord, TYPE};

use super::{Answers, Service};

/// Aliases between a name and what it stands for. Servers follow them; what goes on longer is a loop.
const ALIASES_MAX: usize = 16;
/// How long the news holds that there is no record.
const NONE_FOR: Duration = Duration::from_secs(5);

/// Which records are asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    A,
    Aaaa,
    Srv,
}

/// What a record says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Record {
    Address(IpAddr),
    Service(Service),
}

/// What a server says to a question.
#[derive(Debug)]
pub(super) enum Answer {
    Records(Answers<Record>),
    /// It is too long for a datagram.
    Truncated,
    /// Why it says nothing.
    Refused(String),
}

/// A question about one name.
#[derive(Debug)]
pub(super) struct Question {
    id: u16,
    /// In lower case, without a dot at its end.
    name: String,
    kind: TYPE,
    bytes: Vec<u8>,
}

impl Question {
    /// A question by this number; `None`: the name is none that DNS can know.
    pub(super) fn about(name: &str, kind: Kind, id: u16) -> Option<Self> {
        let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
        let kind = match kind {
            Kind::A => TYPE::A,
            Kind::Aaaa => TYPE::AAAA,
            Kind::Srv => TYPE::SRV,
        };
        // The crate passes over labels without anything in them.
        let is_whole = name.split('.').all(|label| !label.is_empty());
        let asked = Name::new(&name).ok().filter(|_| is_whole)?;
        let mut packet = Packet::new_query(id);
        packet.set_flags(PacketFlag::RECURSION_DESIRED);
        packet.questions.push(simple_dns::Question::new(asked, kind.into(), CLASS::IN.into(), false));
        let bytes = packet.build_bytes_vec().ok()?;
        Some(Self { id, name, kind, bytes })
    }

    /// It, as a server reads it.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// What a message says to it; `None` where it is an answer to something else, or none.
    pub(super) fn read(&self, message: &[u8]) -> Option<Answer> {
        let packet = Packet::parse(message).ok()?;
        let [question] = &packet.questions[..] else { return None };
        let is_answer = packet.has_flags(PacketFlag::RESPONSE)
            && packet.opcode() == OPCODE::StandardQuery
            && packet.id() == self.id
            && question.qclass == QCLASS::CLASS(CLASS::IN)
            && question.qtype == QTYPE::TYPE(self.kind)
            && text(&question.qname) == self.name;
        if !is_answer {
            return None;
        }
        if packet.has_flags(PacketFlag::TRUNCATION) {
            return Some(Answer::Truncated);
        }
        Some(match packet.rcode() {
            RCODE::NoError | RCODE::NameError => Answer::Records(self.records(&packet.answers)),
            other => Answer::Refused(format!("{other:?}")),
        })
    }

    /// The records of what the name stands for, behind its aliases. They stand beside each other, and each bounds how long the
    /// answer holds. What is said of other names is passed over.
    fn records(&self, answers: &[ResourceRecord<'_>]) -> Answers<Record> {
        let mut name = self.name.clone();
        let mut ttl = None;
        let mut note = |record: &ResourceRecord<'_>| ttl = Some(ttl.map_or(record.ttl, |ttl: u32| ttl.min(record.ttl)));
        let of = |name: &str| {
            let name = name.to_owned();
            answers.iter().filter(move |record| record.class == CLASS::IN && text(&record.name) == name)
        };
        for _ in 0..ALIASES_MAX {
            let alias = of(&name).find_map(|record| match &record.rdata {
                RData::CNAME(target) => Some((record, text(&target.0))),
                _ => None,
            });
            let Some((record, target)) = alias else { break };
            note(record);
            name = target;
        }
        let records = of(&name).filter_map(|record| {
            let data = match (&record.rdata, self.kind) {
                (RData::A(found), TYPE::A) => Record::Address(Ipv4Addr::from(found.address).into()),
                (RData::AAAA(found), TYPE::AAAA) => Record::Address(Ipv6Addr::from(found.address).into()),
                (RData::SRV(found), TYPE::SRV) => Record::Service(Service {
                    target: text(&found.target),
                    port: found.port,
                    weight: found.weight,
                    priority: found.priority,
                }),
                _ => return None,
            };
            note(record);
            Some(data)
        });
        let records = records.collect();
        Answers { records, ttl: ttl.map_or(NONE_FOR, |seconds| Duration::from_secs(seconds.into())) }
    }
}

/// A name in lower case, without a dot at its end.
fn text(name: &Name<'_>) -> String {
    name.to_string().to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use simple_dns::rdata::{A, AAAA, CNAME, SRV};

    use super::*;

    const ID: u16 = 0x1234;

    fn name(text: &str) -> Name<'_> {
        Name::new(text).unwrap()
    }

    fn record<'r>(owner: &'r str, ttl: u32, data: RData<'r>) -> ResourceRecord<'r> {
        ResourceRecord::new(name(owner), CLASS::IN, ttl, data)
    }

    fn address<'r>(owner: &'r str, ttl: u32, last: u8) -> ResourceRecord<'r> {
        record(owner, ttl, RData::A(A { address: Ipv4Addr::new(10, 0, 0, last).into() }))
    }

    fn alias<'r>(owner: &'r str, ttl: u32, target: &'r str) -> ResourceRecord<'r> {
        record(owner, ttl, RData::CNAME(CNAME(name(target))))
    }

    fn question(kind: Kind) -> Question {
        Question::about("A.example.", kind, ID).unwrap()
    }

    /// An answer to a question about `A.Example`, as `edit` leaves it.
    fn answer(kind: TYPE, edit: impl FnOnce(&mut Packet<'_>)) -> Vec<u8> {
        let mut packet = Packet::new_reply(ID);
        packet.questions.push(simple_dns::Question::new(name("A.Example"), kind.into(), CLASS::IN.into(), false));
        edit(&mut packet);
        packet.build_bytes_vec_compressed().unwrap()
    }

    fn read(kind: Kind, message: &[u8]) -> Option<(Vec<Record>, u64)> {
        match question(kind).read(message)? {
            Answer::Records(Answers { records, ttl }) => Some((records, ttl.as_secs())),
            Answer::Truncated | Answer::Refused(_) => None,
        }
    }

    fn addresses(all: &[u8]) -> Vec<Record> {
        all.iter().map(|last| Record::Address(Ipv4Addr::new(10, 0, 0, *last).into())).collect()
    }

    #[test]
    fn names_are_those_that_dns_can_know() {
        let long = "a".repeat(64);
        for bad in ["", ".", "a..b", &long, &format!("{}b", "a.".repeat(127))] {
            assert!(Question::about(bad, Kind::A, ID).is_none(), "{bad:?}");
        }
        let asked = question(Kind::Srv);
        let packet = Packet::parse(asked.bytes()).unwrap();
        assert!(packet.has_flags(PacketFlag::RECURSION_DESIRED) && !packet.has_flags(PacketFlag::RESPONSE));
        assert_eq!((packet.id(), text(&packet.questions[0].qname)), (ID, "a.example".to_owned()));
    }

    #[test]
    fn records_are_those_of_the_name_and_hold_for_the_shortest_of_their_times() {
        let plain = answer(TYPE::A, |packet| {
            packet.answers = vec![address("a.example", 60, 1), address("a.EXAMPLE", 30, 2), address("b.example", 1, 9)];
        });
        assert_eq!(read(Kind::A, &plain), Some((addresses(&[1, 2]), 30)));
        let none = answer(TYPE::A, |packet| *packet.rcode_mut() = RCODE::NameError);
        assert_eq!(read(Kind::A, &none), Some((Vec::new(), 5)));
        let six = Ipv6Addr::LOCALHOST;
        let other = answer(TYPE::AAAA, |packet| {
            packet.answers = vec![record("a.example", 9, RData::AAAA(AAAA { address: six.into() }))];
        });
        assert_eq!(read(Kind::Aaaa, &other), Some((vec![Record::Address(six.into())], 9)));
        assert_eq!(read(Kind::A, &other), None, "it was asked for something else");
    }

    #[test]
    fn services_have_targets_in_lower_case() {
        let srv = |target| RData::SRV(SRV { priority: 1, weight: 2, port: 3, target });
        let message = answer(TYPE::SRV, |packet| {
            packet.answers = vec![
                record("a.example", 7, srv(name("One.Example"))),
                record("a.example", 8, srv(Name::new("").unwrap())),
            ];
        });
        let service =
            |target: &str| Record::Service(Service { target: target.into(), port: 3, weight: 2, priority: 1 });
        assert_eq!(read(Kind::Srv, &message), Some((vec![service("one.example"), service("")], 7)));
    }

    #[test]
    fn aliases_are_followed_as_far_as_they_lead_somewhere() {
        let chain = answer(TYPE::A, |packet| {
            packet.answers = vec![
                address("c.example", 60, 3),
                alias("B.example", 20, "C.example"),
                alias("a.example", 40, "b.example"),
            ];
        });
        assert_eq!(read(Kind::A, &chain), Some((addresses(&[3]), 20)));
        let looped = answer(TYPE::A, |packet| {
            packet.answers = vec![alias("a.example", 40, "b.example"), alias("b.example", 20, "a.example")];
        });
        assert_eq!(read(Kind::A, &looped), Some((Vec::new(), 20)));
    }

    #[test]
    fn what_answers_something_else_is_none() {
        let good = answer(TYPE::A, |_| {});
        assert!(question(Kind::A).read(&good).is_some());
        let mut other_id = good.clone();
        other_id[1] ^= 1;
        let mut no_answer = good.clone();
        no_answer[2] &= 0x7f;
        let two = answer(TYPE::A, |packet| {
            let same = packet.questions[0].clone();
            packet.questions.push(same);
        });
        let other_name = answer(TYPE::A, |packet| packet.questions[0].qname = name("b.example"));
        let chaos = answer(TYPE::A, |packet| packet.questions[0].qclass = CLASS::CH.into());
        for (why, message) in [
            ("another number", &other_id[..]),
            ("a question", &no_answer),
            ("two questions", &two),
            ("another name", &other_name),
            ("another class", &chaos),
            ("cut short", &good[..good.len() - 1]),
            ("nothing", &[]),
        ] {
            assert!(question(Kind::A).read(message).is_none(), "{why}");
        }
    }

    #[test]
    fn refusals_and_answers_that_do_not_fit_are_told() {
        let refused = answer(TYPE::A, |packet| *packet.rcode_mut() = RCODE::ServerFailure);
        assert!(matches!(question(Kind::A).read(&refused), Some(Answer::Refused(_))));
        let long = answer(TYPE::A, |packet| packet.set_flags(PacketFlag::TRUNCATION));
        assert!(matches!(question(Kind::A).read(&long), Some(Answer::Truncated)));
    }

    #[test]
    fn fuzz_answers_are_read_or_not() {
        let full = answer(TYPE::A, |packet| {
            packet.answers = vec![alias("a.example", 40, "b.example"), address("b.example", 60, 3)];
        });
        let services = answer(TYPE::A, |packet| {
            let srv = SRV { priority: 1, weight: 2, port: 3, target: name("one.example") };
            packet.answers = vec![record("a.example", 7, RData::SRV(srv)), address("a.example", 60, 3)];
        });
        let asked = question(Kind::A);
        // A name that points at itself.
        let mut looped = full.clone();
        looped.splice(12..14, [0xc0, 0x0c]);
        fuzz::hammer(4, &[&full, &services, &looped, asked.bytes()], |message| {
            if let Some(Answer::Records(found)) = asked.read(message) {
                assert!(found.records.len() <= message.len() / 4, "a record has four bytes at least");
                assert!(found.records.iter().all(|record| matches!(record, Record::Address(IpAddr::V4(_)))));
            }
        });
    }
}
