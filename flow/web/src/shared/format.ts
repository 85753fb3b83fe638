/** Numbers and times for people. What is null has not been measured: a dash, never a zero. */

const DASH = "–";
const ENGLISH = "en-US";

type Amount = string | number | null | undefined;

function dollars(mostDigits: number, leastDigits = 2): Intl.NumberFormat {
  return new Intl.NumberFormat(ENGLISH, {
    style: "currency",
    currency: "USD",
    minimumFractionDigits: leastDigits,
    maximumFractionDigits: mostDigits,
  });
}

const CENTS = dollars(2);
const FINE = dollars(4);
const FINEST = dollars(6);
const ALL_FOUR = dollars(4, 4);
const ALL_SIX = dollars(6, 6);
const COUNT = new Intl.NumberFormat(ENGLISH, { maximumFractionDigits: 0 });
const DECIMAL = new Intl.NumberFormat(ENGLISH, { maximumFractionDigits: 2 });
const COMPACT = new Intl.NumberFormat(ENGLISH, { notation: "compact", maximumFractionDigits: 1 });

/** An amount with as many digits as it takes to see it. */
export function usd(amount: Amount): string {
  if (amount == null) return DASH;
  const value = Number(amount);
  const size = Math.abs(value);
  if (size >= 1 || size === 0) return CENTS.format(value);
  return (size >= 0.01 ? FINE : FINEST).format(value);
}

/** An amount in a column of others: all have four digits after the point. */
export function usdColumn(amount: Amount): string {
  return amount == null ? DASH : ALL_FOUR.format(Number(amount));
}

/** An amount in a column of small ones: six digits after the point, more where there are. */
export function usdExact(amount: Amount): string {
  if (amount == null) return DASH;
  const digits = String(amount).split(".")[1]?.length ?? 0;
  if (digits <= 6 || typeof amount === "number") return ALL_SIX.format(Number(amount));
  return `$${amount}`;
}

export function count(amount: Amount): string {
  return amount == null ? DASH : COUNT.format(Number(amount));
}

export function compact(amount: Amount): string {
  return amount == null ? DASH : COMPACT.format(Number(amount));
}

export function decimal(amount: Amount): string {
  return amount == null ? DASH : DECIMAL.format(Number(amount));
}

export function percent(part: number, whole: number): string {
  if (whole <= 0) return "0%";
  const share = (100 * part) / whole;
  return share > 0 && share < 0.1 ? "< 0.1%" : `${share.toFixed(share < 10 ? 1 : 0)}%`;
}

/** A wait, as in 0.78 s. */
export function seconds(secs: Amount): string {
  return secs == null ? DASH : `${Number(secs).toFixed(2)} s`;
}

/** How long something took, as in 1:05 or 2:03:09. */
export function duration(secs: Amount): string {
  if (secs == null) return DASH;
  const whole = Math.max(0, Math.round(Number(secs)));
  const [hours, minutes] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60];
  const rest = String(whole % 60).padStart(2, "0");
  return hours ? `${hours}:${String(minutes).padStart(2, "0")}:${rest}` : `${minutes}:${rest}`;
}

const MOMENT: Intl.DateTimeFormatOptions = {
  day: "numeric",
  month: "short",
  hour: "2-digit",
  minute: "2-digit",
  second: "2-digit",
};
const THIS_YEAR = new Intl.DateTimeFormat("en-GB", MOMENT);
const ANY_YEAR = new Intl.DateTimeFormat("en-GB", { ...MOMENT, year: "numeric" });
const CLOCK = new Intl.DateTimeFormat("en-GB", {
  hour: "2-digit",
  minute: "2-digit",
  second: "2-digit",
});
const DAY = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short", timeZone: "UTC" });

/** A time on the reader's clock; the year only where it is not this one. */
export function moment(time: string | null | undefined): string {
  if (time == null) return DASH;
  const date = new Date(time);
  const isThisYear = date.getFullYear() === new Date().getFullYear();
  return (isThisYear ? THIS_YEAR : ANY_YEAR).format(date);
}

export function clock(time: string | null | undefined): string {
  return time == null ? DASH : CLOCK.format(new Date(time));
}

/** A day of UTC, as in 3 Nov. */
export function shortDay(day: string): string {
  return DAY.format(new Date(`${day}T00:00:00Z`));
}

export function ago(time: string | null, now: number = Date.now()): string {
  if (time === null) return DASH;
  const secs = Math.max(0, (now - Date.parse(time)) / 1000);
  if (secs < 90) return `${Math.round(secs)} s ago`;
  if (secs < 5400) return `${Math.round(secs / 60)} min ago`;
  if (secs < 129600) return `${Math.round(secs / 3600)} h ago`;
  return `${Math.round(secs / 86400)} days ago`;
}

/** A day as the API takes it, so many days from today (UTC). */
export function isoDay(daysFromToday = 0, today: Date = new Date()): string {
  return new Date(today.getTime() + daysFromToday * 86_400_000).toISOString().slice(0, 10);
}

/** A name of the API for people: `in_call` is "In call". */
export function words(name: string): string {
  const text = name
    .replaceAll("_", " ")
    .replace(/\b(?:llm|stt|tts|api|id|url)\b/g, (short) => short.toUpperCase());
  return text.charAt(0).toUpperCase() + text.slice(1);
}
