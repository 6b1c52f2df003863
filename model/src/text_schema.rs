//! Schemas of types that are written as one word.

/// Gives each type the schema behind it, in place where it is used.
macro_rules! text_schema {
    ($($type:ident $(<$of:ident>)?: $schema:expr;)*) => {$(
        impl $(<$of>)? schemars::JsonSchema for $type $(<$of>)? {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($type).into()
            }

            fn inline_schema() -> bool {
                true
            }

            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                $schema
            }
        }
    )*};
}
