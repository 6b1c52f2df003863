use headwater_model::origin::Kind;

use super::*;

fn key(kind: Kind) -> ObjectKey {
    ObjectKey::new(kind, "shop", "web")
}

fn error(reason: &'static str, message: &str) -> Finding {
    Finding::error(reason, key(Kind::Ingress), message)
}

fn weighed(findings: Vec<Finding>) -> Weighed {
    let mut weighed = Weighed::default();
    weighed.add(findings, Stage::Judging, Some(&key(Kind::Ingress)));
    weighed
}

#[test]
fn only_own_faults_that_nothing_else_can_mend_reject() {
    use Weight::{Nothing, Rejects, Warns};
    let ingress = key(Kind::Ingress);
    let settings = key(Kind::GatewaySettings);
    let other = ObjectKey::new(Kind::Ingress, "shop", "other");
    let own = |reason| error(reason, "x");
    let nobodys = Finding { object: None, ..own("InvalidPath") };
    for (finding, stage, object, weight) in [
        (own("InvalidPath"), Stage::Judging, &ingress, Rejects),
        (own("NotImplemented"), Stage::Judging, &ingress, Rejects),
        (own("MissingReference"), Stage::Judging, &ingress, Warns),
        (own("InvalidCertificate"), Stage::Judging, &ingress, Warns),
        (own("Conflict"), Stage::Judging, &ingress, Warns),
        (own("InvalidPath"), Stage::Judging, &other, Warns),
        (nobodys.clone(), Stage::Judging, &ingress, Warns),
        (Finding::warning("NotImplemented", ingress.clone(), "x"), Stage::Judging, &ingress, Warns),
        (Finding::new(Severity::Info, "NotServed", ingress.clone(), "x"), Stage::Judging, &ingress, Nothing),
        // The form of Kubernetes' own kinds was looked at by the API server.
        (own("WrongType"), Stage::Reading, &ingress, Warns),
        (Finding::error("UnknownField", settings.clone(), "x"), Stage::Reading, &settings, Rejects),
    ] {
        assert_eq!(weigh(&finding, stage, Some(object)), weight, "{finding:?} {stage:?} {object}");
    }
    assert_eq!(weigh(&nobodys, Stage::Reading, None), Warns);
    assert_eq!(weigh(&own("WrongType"), Stage::Judging, None), Warns);
}

#[test]
fn what_was_wrong_before_is_forgiven_as_often_as_it_stood_there() {
    let old = weighed(vec![error("A", "x").at("spec.rules[0]"), error("B", "y")]);
    let mut new = weighed(vec![error("A", "x").at("spec.rules[1]"), error("A", "x").at("spec.rules[2]")]);
    new.forgive(&old);
    assert_eq!(new.rejecting, [error("A", "x").at("spec.rules[2]")]);
    assert_eq!(new.warning, [error("A", "x").at("spec.rules[1]")]);
    let mut same = old.clone();
    same.forgive(&old);
    assert!(matches!(same.verdict(None), Verdict::Allowed { warnings } if warnings.len() == 2));
}

#[test]
fn a_denial_names_object_fields_and_mends_within_its_limits() {
    let one =
        weighed(vec![error("InvalidPath", "\"a\" does not begin with /").at("spec.rules[0].path").mend("add it")]);
    let Verdict::Denied { denial, .. } = one.verdict(Some(&key(Kind::Ingress))) else { panic!("{one:?}") };
    assert_eq!(
        denial.message,
        "headwater refuses Ingress shop/web: spec.rules[0].path: \"a\" does not begin with / (mend: add it)"
    );
    assert_eq!((denial.code, denial.reason, denial.causes.len()), (422, "Invalid", 1));

    let many =
        weighed((0..500).map(|n| error("InvalidPath", &format!("{n} {}\x1b[2J\n", "long ".repeat(30)))).collect());
    let Verdict::Denied { denial, .. } = many.verdict(Some(&key(Kind::Ingress))) else { panic!("{many:?}") };
    assert!(denial.message.len() <= MAX_MESSAGE + 100 && denial.message.contains(" more"), "{}", denial.message);
    assert_eq!(denial.causes.len(), MAX_CAUSES);
    let json = String::from_utf8(crate::review::answer("u", &many.verdict(Some(&key(Kind::Ingress))))).unwrap();
    assert!(!json.contains("\\u001b") && !json.contains("\\n"), "{json}");
}

#[test]
fn warnings_are_short_few_and_told_once() {
    let long = "x".repeat(300);
    let mended = Finding::warning("W", key(Kind::Ingress), "is a little long for what it says").at("spec.rules[0]");
    let findings = [
        mended.clone().mend("y".repeat(80)),
        mended.clone(),
        Finding::warning("W", key(Kind::Ingress), "z".repeat(90)).at(&long),
        Finding::warning("W", key(Kind::Ingress), &long),
        Finding::warning("W", key(Kind::Ingress), "short").mend("do it"),
    ];
    let texts = warnings(&findings);
    assert_eq!(texts.len(), 4, "{texts:#?}");
    assert_eq!(texts[0], "Ingress shop/web: spec.rules[0]: is a little long for what it says");
    assert_eq!(texts[1], format!("Ingress shop/web: {}", "z".repeat(90)));
    assert!(texts[2].ends_with("...") && texts[2].chars().count() == MAX_WARNING);
    assert_eq!(texts[3], "Ingress shop/web: short (mend: do it)");

    let many: Vec<Finding> =
        (0..100).map(|n| Finding::warning("W", key(Kind::Ingress), format!("{n:3} {}", "x".repeat(90)))).collect();
    let texts = warnings(&many);
    assert!(texts.iter().map(String::len).sum::<usize>() <= MAX_WARNINGS);
    let told = texts.len() - 1;
    assert_eq!(texts[told], format!("and {} more; headwater check tells all", 100 - told));
}
