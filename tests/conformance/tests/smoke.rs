//! The stand itself.

use anyhow::Result;
use headwater_conformance_tests::Stand;
use headwater_testkit::client::RawClient;
use headwater_testkit::origin::Origin;

#[test]
fn an_ingress_is_served_and_an_edit_is_live() -> Result<()> {
    let (one, two) = (Origin::http("one")?, Origin::http("two")?);
    let stand = Stand::start(&[
        ("gateway.yaml", Stand::gateway("")),
        ("app.yaml", Stand::app("app", "app.test", &[one.address()])),
    ])?;
    let ask = || RawClient::connect(stand.address("http"))?.request("GET / HTTP/1.1\r\nHost: app.test\r\n\r\n");
    assert_eq!(ask()?.seen()?.name(), "one");
    stand.change(|dir| dir.write("app.yaml", &Stand::app("app", "app.test", &[two.address()])))?;
    assert_eq!(ask()?.seen()?.name(), "two");
    let line = stand.log_line(|line| line["endpoint"] == two.address().to_string())?;
    assert_eq!(line["route"], "Ingress test/app");
    Ok(())
}
