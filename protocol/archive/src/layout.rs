//! Where what lies.
//!
//! ```text
//!   <prefix>/<cluster>/whole/…                                  everything, for a restore
//!   <prefix>/<cluster>/group-<name>/…                           a gateway group's view, for its proxies
//!       latest                                                  the signed pointer
//!       <epoch number>-<restore id>/<revision, 20 digits>.base  everything at one position
//!       <epoch number>-<restore id>/<revision, 20 digits>.delta what changed up to that revision
//!   <prefix>/<cluster>/epochs/<number>                          whose restore a number belongs to
//! ```

use std::fmt::Write as _;

use protocol::position::RestoreId;
use protocol::snapshot::ClusterId;
use protocol::{Epoch, Revision, Text};

/// Which part of a configuration.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum View {
    /// Everything: what a restore needs.
    Whole,
    /// What a gateway group may see.
    Group(Text),
}

/// What an object of a view is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Part {
    /// Everything at one position.
    Base,
    /// What changed up to one position.
    Segment,
}

/// Keys under one prefix.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Layout {
    prefix: String,
}

impl View {
    /// As snapshots name it.
    #[must_use]
    pub fn text(&self) -> Option<Text> {
        match self {
            Self::Whole => None,
            Self::Group(group) => Some(group.clone()),
        }
    }

    /// The name of its folder: any group's name is a folder of its own in every store.
    fn folder(&self) -> String {
        let Self::Group(group) = self else { return "whole".to_owned() };
        let mut folder = "group-".to_owned();
        for byte in group.bytes() {
            match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' => folder.push(char::from(byte)),
                _ => write!(folder, "%{byte:02X}").expect("a string takes everything"),
            }
        }
        folder
    }
}

impl Layout {
    /// Keys under this prefix.
    #[must_use]
    pub fn new(prefix: &str) -> Self {
        Self { prefix: prefix.to_owned() }
    }

    /// Whether a text can be a prefix.
    ///
    /// # Errors
    /// Why not.
    pub fn check_prefix(prefix: &str) -> Result<(), String> {
        crate::store::check_key(prefix).map_err(|e| format!("{e}: names between single `/`, none at either end"))
    }

    /// The folder of all clusters, ending with `/`.
    #[must_use]
    pub fn clusters(&self) -> String {
        format!("{}/", self.prefix)
    }

    /// The folder of a view, ending with `/`.
    #[must_use]
    pub fn view(&self, cluster: ClusterId, view: &View) -> String {
        format!("{}/{cluster}/{}/", self.prefix, view.folder())
    }

    /// The pointer of a view.
    #[must_use]
    pub fn pointer(&self, cluster: ClusterId, view: &View) -> String {
        format!("{}latest", self.view(cluster, view))
    }

    /// The folder of one life of a view, ending with `/`.
    #[must_use]
    pub fn epoch(&self, cluster: ClusterId, view: &View, epoch: Epoch) -> String {
        format!("{}{}-{}/", self.view(cluster, view), epoch.number, epoch.restore)
    }

    /// An object of a view.
    #[must_use]
    pub fn object(&self, cluster: ClusterId, view: &View, epoch: Epoch, part: Part, revision: Revision) -> String {
        let extension = match part {
            Part::Base => "base",
            Part::Segment => "delta",
        };
        format!("{}{revision:020}.{extension}", self.epoch(cluster, view, epoch))
    }

    /// Who has claimed the number of an epoch.
    #[must_use]
    pub fn claim(&self, cluster: ClusterId, number: u64) -> String {
        format!("{}/{cluster}/epochs/{number}", self.prefix)
    }

    /// Where a probe for conditional puts stands.
    #[must_use]
    pub fn claims(&self, cluster: ClusterId) -> String {
        format!("{}/{cluster}/epochs/", self.prefix)
    }
}

/// The epoch that a folder stands for.
#[must_use]
pub fn parse_epoch(folder: &str) -> Option<Epoch> {
    let (number, restore) = folder.split_once('-')?;
    let restore: RestoreId = restore.parse().ok()?;
    Some(Epoch { number: number.parse().ok()?, restore })
}

/// What an object in an epoch's folder is, by the last part of its key.
#[must_use]
pub fn parse_object(key: &str) -> Option<(Part, Revision)> {
    let (revision, extension) = key.rsplit('/').next()?.split_once('.')?;
    let part = match extension {
        "base" => Part::Base,
        "delta" => Part::Segment,
        _ => return None,
    };
    let is_ours = revision.len() == 20 && revision.bytes().all(|b| b.is_ascii_digit());
    Some((part, revision.parse().ok().filter(|_| is_ours)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_layout_is_frozen() {
        let (layout, cluster) = (Layout::new("a/b"), ClusterId([0xab; 16]));
        let epoch = Epoch { number: 3, restore: RestoreId([1; 16]) };
        let group = View::Group("eu west/1".into());
        let hex = "ab".repeat(16);
        assert_eq!(layout.pointer(cluster, &View::Whole), format!("a/b/{hex}/whole/latest"));
        let key = layout.object(cluster, &group, epoch, Part::Base, 7);
        assert_eq!(key, format!("a/b/{hex}/group-eu%20west%2F1/3-{}/00000000000000000007.base", "01".repeat(16)));
        assert_eq!(parse_object(&key), Some((Part::Base, 7)));
        assert_eq!(parse_epoch(&format!("3-{}", "01".repeat(16))), Some(epoch));
        assert_eq!(layout.claim(cluster, 4), format!("a/b/{hex}/epochs/4"));
        for other in ["a/7.base", "a/00000000000000000007.tmp", "latest", "a/+0000000000000000007.base"] {
            assert_eq!(parse_object(other), None, "{other}");
        }
    }
}
