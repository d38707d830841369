//! Who gets which page.

use super::*;
use crate::export::metrics::tests::metrics;

const TEXT: Form = Form {
    format: Format::Text,
    gzip: false,
};

fn pages() -> Arc<Pages> {
    Pages::new(Arc::new(metrics()))
}

async fn page(pages: &Arc<Pages>, form: Form) -> Arc<Pieces> {
    pages.get(form, false).await.expect("a page")
}

#[tokio::test(start_paused = true)]
async fn all_who_ask_within_a_second_get_the_same_page() {
    let pages = pages();
    let asked = (0..50).map(|_| {
        let pages = Arc::clone(&pages);
        tokio::spawn(async move { page(&pages, TEXT).await })
    });
    let all: Vec<_> = asked.collect();
    let first = page(&pages, TEXT).await;
    for other in all {
        assert!(Arc::ptr_eq(&first, &other.await.expect("a page")));
    }
    let packed = Form { gzip: true, ..TEXT };
    let (one, other) = (page(&pages, packed).await, page(&pages, packed).await);
    assert!(Arc::ptr_eq(&one, &other) && !Arc::ptr_eq(&one, &first));
    sleep(SHARED + Duration::from_millis(1)).await;
    assert!(!Arc::ptr_eq(&first, &page(&pages, TEXT).await));
}

#[tokio::test(start_paused = true)]
async fn a_packed_page_is_the_plain_one_of_the_same_second() {
    let pages = pages();
    let plain = page(&pages, TEXT).await.whole().expect("bytes");
    let packed = page(&pages, Form { gzip: true, ..TEXT }).await;
    let packed = packed.whole().expect("bytes");
    let mut unpacked = Vec::new();
    std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(&*packed), &mut unpacked)
        .expect("gzip");
    assert_eq!(unpacked, plain);
}

#[tokio::test(start_paused = true)]
async fn a_page_of_ones_own_is_made_anew_and_serves_others() {
    let pages = pages();
    let first = page(&pages, TEXT).await;
    sleep(Duration::from_millis(1)).await;
    let own = pages.get(TEXT, true).await.expect("a page");
    assert!(!Arc::ptr_eq(&first, &own));
    assert!(Arc::ptr_eq(&own, &page(&pages, TEXT).await));
}

#[tokio::test(start_paused = true)]
async fn a_page_that_nobody_reads_is_not_kept() {
    let pages = pages();
    let page = Arc::downgrade(&page(&pages, TEXT).await);
    assert!(page.strong_count() > 0);
    sleep(2 * SHARED).await;
    assert_eq!(page.strong_count(), 0);
}

#[tokio::test(start_paused = true)]
async fn the_oldest_of_too_many_pages_is_given_up() {
    let pages = pages();
    let mut held = Vec::new();
    for _ in 0..=HELD {
        held.push(page(&pages, TEXT).await);
        sleep(SHARED + Duration::from_millis(1)).await;
    }
    let given_up: Vec<_> = held.iter().map(|page| page.is_given_up()).collect();
    assert!(
        given_up[0] && !given_up[1..].contains(&true),
        "{given_up:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn whoever_waits_too_long_is_told_to_come_again() {
    let pages = pages();
    let work = Arc::clone(&pages.work);
    let _all = work
        .acquire_many_owned(u32::try_from(AT_ONCE).expect("a few"))
        .await
        .expect("all");
    let waited = pages.get(TEXT, false).await;
    assert!(matches!(waited, Err(PageError::Busy)), "{waited:?}");
}
