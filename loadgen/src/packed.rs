//! Histograms as text: HdrHistogram's compressed V2 form in base64, which every implementation of it reads.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::{Deserializer, Serializer, V2DeflateSerializer};

/// One histogram as text.
pub(crate) fn pack(histogram: &Histogram<u64>) -> String {
    let mut bytes = Vec::new();
    V2DeflateSerializer::new().serialize(histogram, &mut bytes).expect("a vector takes everything");
    STANDARD.encode(bytes)
}

/// The inverse. None for what is no histogram, or one of another range or precision than ours.
pub(crate) fn unpack(text: &str) -> Option<Histogram<u64>> {
    let bytes = STANDARD.decode(text).ok()?;
    let found: Histogram<u64> = Deserializer::new().deserialize(&mut &bytes[..]).ok()?;
    let mut histogram = crate::tally::histogram();
    histogram.add(&found).ok()?;
    Some(histogram)
}

/// For serde: one histogram.
pub(crate) mod one {
    use hdrhistogram::Histogram;
    use serde::{Deserialize, Deserializer, Serializer, de};

    pub(crate) fn serialize<S: Serializer>(histogram: &Histogram<u64>, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&super::pack(histogram))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Histogram<u64>, D::Error> {
        let text = String::deserialize(from)?;
        super::unpack(&text).ok_or_else(|| de::Error::custom("this is no histogram"))
    }
}

/// For serde: histograms that may not be there.
pub(crate) mod list {
    use hdrhistogram::Histogram;
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

    type Histograms = Vec<Option<Box<Histogram<u64>>>>;

    pub(crate) fn serialize<S: Serializer>(histograms: &Histograms, to: S) -> Result<S::Ok, S::Error> {
        let texts: Vec<Option<String>> =
            histograms.iter().map(|histogram| histogram.as_deref().map(super::pack)).collect();
        texts.serialize(to)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Histograms, D::Error> {
        let texts = Vec::<Option<String>>::deserialize(from)?;
        let unpack = |text: Option<String>| match text {
            None => Ok(None),
            Some(text) => super::unpack(&text)
                .map(|histogram| Some(Box::new(histogram)))
                .ok_or_else(|| de::Error::custom("this is no histogram")),
        };
        texts.into_iter().map(unpack).collect()
    }
}
