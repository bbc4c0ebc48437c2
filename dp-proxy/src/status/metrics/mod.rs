//! Metrics, one file a subject. The names of APISIX's request series are kept to the letter, so that its dashboards
//! work; everything else is ours, in seconds and bytes, under `holdfast_dp_`.

mod apisix;
mod archive;
mod disk;
mod feed;
mod file;
mod proxy;
mod text;

use super::Sources;
use text::Page;

/// Every subject.
const SUBJECTS: [fn(&Sources, &mut Page); 6] =
    [apisix::write, archive::write, disk::write, feed::write, file::write, proxy::write];

pub(super) fn render(sources: &Sources) -> String {
    let mut page = Page::default();
    SUBJECTS.iter().for_each(|write| write(sources, &mut page));
    page.into_text()
}
