/** Microphones: asking for one, and which there are. */

const NAME = "flow.microphone";

export interface Microphone {
  id: string;
  label: string;
}

/** The microphone that was chosen last; empty for the system's own choice. */
export const chosenMicrophone = {
  read: (): string => localStorage.getItem(NAME) ?? "",
  keep: (id: string): void =>
    id ? localStorage.setItem(NAME, id) : localStorage.removeItem(NAME),
};

/** Have the browser ask for a microphone. What it refuses with is thrown: see `trouble.ts`. */
export async function askForMicrophone(id: string): Promise<void> {
  const audio = id ? { deviceId: { exact: id } } : true;
  // Not there at all on a page that is not secure.
  const stream = await navigator.mediaDevices.getUserMedia({ audio });
  for (const track of stream.getTracks()) track.stop();
}

/** The microphones by name; browsers tell their names only once one was allowed. */
export async function microphones(): Promise<Microphone[]> {
  const devices = (await navigator.mediaDevices?.enumerateDevices?.()) ?? [];
  return devices
    .filter((one) => one.kind === "audioinput" && one.label && one.deviceId !== "default")
    .map((one) => ({ id: one.deviceId, label: one.label }));
}
