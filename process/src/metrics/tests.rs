use super::*;

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Route {
    rule: &'static str,
    code: u16,
}

impl EncodeLabelSet for Route {
    fn encode(&self, encoder: &mut prometheus_client::encoding::LabelSetEncoder<'_>) -> Result<(), fmt::Error> {
        [("rule", self.rule)].encode(encoder)?;
        [("code", u64::from(self.code))].encode(encoder)
    }
}

const OK: Route = Route { rule: "shop/web", code: 200 };
const GONE: Route = Route { rule: "shop/old", code: 410 };

#[test]
fn shards_of_all_workers_are_summed_also_when_workers_are_gone() {
    let registry = Registry::new();
    let requests = registry.counters::<Route>("requests", "Requests answered.");
    let workers: Vec<_> = (0..4)
        .map(|_| {
            let shard = requests.shard(&OK);
            std::thread::spawn(move || (0..100_000).for_each(|_| shard.inc()))
        })
        .collect();
    while workers.iter().any(|worker| !worker.is_finished()) {
        assert!(requests.sum(&OK).unwrap() <= 400_000, "a scrape in between counts nothing twice");
    }
    for worker in workers {
        worker.join().unwrap();
    }
    assert_eq!(requests.sum(&OK), Some(400_000));
    let late = requests.shard(&OK);
    late.add(5);
    assert_eq!(late.value(), 5);
    assert_eq!(requests.sum(&OK), Some(400_005), "twice the same answer");
    assert_eq!(requests.sum(&OK), Some(400_005));
}

#[test]
fn the_text_is_what_prometheus_reads() {
    let registry = Registry::new();
    let requests = registry.counters::<Route>("requests", "Requests answered.");
    let in_flight = registry.gauges::<NoLabels>("requests_in_flight", "Requests being answered.");
    let durations = registry.histograms::<NoLabels>("request_duration_seconds", "Time to the last byte.");
    registry.counter_fn("access_log_dropped_lines", "Lines lost.", || 9);
    requests.shard(&OK).add(3);
    let gauges = [in_flight.shard(&NoLabels), in_flight.shard(&NoLabels)];
    gauges[0].set(3);
    gauges[1].dec();
    let durations = durations.shard(&NoLabels);
    for seconds in [0.0005, 0.0006, 59.0, 61.0, -1.0, f64::NAN] {
        durations.observe(seconds);
    }
    let text = registry.encode();
    for line in [
        "# HELP headwater_requests Requests answered.",
        "# TYPE headwater_requests counter",
        "headwater_requests_total{rule=\"shop/web\",code=\"200\"} 3",
        "# TYPE headwater_requests_in_flight gauge",
        "headwater_requests_in_flight 2",
        "headwater_request_duration_seconds_count 6",
        "headwater_request_duration_seconds_bucket{le=\"0.0005\"} 3",
        "headwater_request_duration_seconds_bucket{le=\"0.001\"} 4",
        "headwater_request_duration_seconds_bucket{le=\"30.0\"} 4",
        "headwater_request_duration_seconds_bucket{le=\"60.0\"} 5",
        "headwater_request_duration_seconds_bucket{le=\"+Inf\"} 6",
        "headwater_access_log_dropped_lines_total 9",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} is missing from\n{text}");
    }
    assert!(text.ends_with("# EOF\n"));
    drop(gauges);
    assert!(registry.encode().contains("headwater_requests_in_flight 0\n"), "what is in flight goes with its worker");
}

#[test]
fn series_that_left_the_configuration_are_forgotten() {
    let registry = Registry::new();
    let requests = registry.counters::<Route>("requests", "Requests answered.");
    let (_kept, old) = (requests.shard(&OK), requests.shard(&GONE));
    requests.retain(|labels| *labels != GONE);
    old.inc();
    let text = registry.encode();
    assert!(text.contains("shop/web") && !text.contains("shop/old"), "{text}");
}

#[test]
fn a_durations_bucket_is_the_first_bound_not_below_it() {
    let registry = Registry::new();
    let durations = registry.histograms::<NoLabels>("x_seconds", "X.");
    let shard = durations.shard(&NoLabels);
    for bound in HISTOGRAM_BUCKETS {
        shard.observe(bound);
    }
    shard.observe(f64::INFINITY);
    assert_eq!(durations.sum(&NoLabels).unwrap().buckets, [1; 17]);
    assert!(durations.sum(&NoLabels).unwrap().seconds.is_infinite());
}

#[test]
fn names_of_others_are_shown_as_they_are() {
    let registry = Registry::bare();
    registry
        .counters::<[(&'static str, String); 1]>("nginx_http_status", "Requests")
        .shard(&[("a", "_total{".to_owned())])
        .add(3);
    // What a gauge says goes with its shard.
    let gauge = registry.gauges::<NoLabels>("of_others_total", "A gauge").shard(&NoLabels);
    gauge.set(2);
    let text = registry.encode_classic();
    for line in ["# TYPE nginx_http_status counter", "nginx_http_status{a=\"_total{\"} 3", "of_others_total 2"] {
        assert!(text.lines().any(|found| found == line), "{line}\n{text}");
    }
    assert!(!text.contains("EOF") && !text.contains("headwater"), "{text}");
}

#[test]
fn metrics_whose_names_others_have_chosen_keep_them_and_are_scraped_with_ours() {
    let registry = Registry::new();
    registry.gauge_fn("leader", "Ours", || 1);
    let foreign = registry.foreign();
    foreign.gauges_fn("metallb_allocator_addresses_total", "Theirs", || {
        vec![(vec![("pool".to_owned(), "a".to_owned())], 7), (vec![("pool".to_owned(), "b".to_owned())], 9)]
    });
    let text = registry.encode();
    for line in [
        "headwater_leader 1\n",
        "metallb_allocator_addresses_total{pool=\"a\"} 7\n",
        "metallb_allocator_addresses_total{pool=\"b\"} 9\n",
    ] {
        assert!(text.contains(line), "{text}");
    }
    assert_eq!((text.matches("# EOF").count(), text.ends_with("# EOF\n")), (1, true), "{text}");
}
