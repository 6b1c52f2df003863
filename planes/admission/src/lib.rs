//! A validating webhook: objects are judged before the API server stores them.
