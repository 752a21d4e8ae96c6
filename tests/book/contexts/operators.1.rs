//> here
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Reading { sensor: String, at: Timestamp, value: f64 }
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Alert { sensor: String }
impl Alert {
    fn rise(sensor: &str, _: &Reading) -> Self {
        Self { sensor: sensor.to_owned() }
    }
    fn silent(sensor: &str, _: Timestamp) -> Self {
        Self { sensor: sensor.to_owned() }
    }
}
