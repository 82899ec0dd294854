//! What a person wrote: the definition and the profiles, their schema, layering and errors.
