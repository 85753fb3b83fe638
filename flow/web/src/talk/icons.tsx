/** Drawings on buttons; the words beside them say the same. */
import type { ComponentChildren } from "preact";

function Icon({ children }: { children: ComponentChildren }) {
  return (
    <svg class="icon" viewBox="0 0 24 24" width="20" height="20" aria-hidden="true">
      {children}
    </svg>
  );
}

const MICROPHONE = (
  <>
    <rect x="9" y="3" width="6" height="11" rx="3" />
    <path d="M5.500 11.500a6.500 6.500 0 0 0 13 0M12 18v3" />
  </>
);

export function MicrophoneIcon() {
  return <Icon>{MICROPHONE}</Icon>;
}

export function MutedIcon() {
  return (
    <Icon>
      {MICROPHONE}
      <path d="M4 4l16 16" />
    </Icon>
  );
}

export function HangUpIcon() {
  return (
    <Icon>
      <path d="M3 14.500c0-5 18-5 18 0v1.500a1 1 0 0 1-1.200 1l-3.300-.7a1 1 0 0 1-.8-1v-2c-2.300-.8-5.100-.8-7.400 0v2a1 1 0 0 1-.8 1l-3.300.7A1 1 0 0 1 3 16z" />
    </Icon>
  );
}

export function SendIcon() {
  return (
    <Icon>
      <path d="M4 12h15M13 6l6 6-6 6" />
    </Icon>
  );
}
