// In place of Daily's SDK, which the transports import for a manager of media that is not used
// here: it would load a script from the internet.
export default {};
