/** A field for some lines of text. */
export function Text(props: {
  label: string;
  rows: number;
  value: string;
  placeholder: string;
  onChange: (value: string) => void;
}) {
  return (
    <label class="field">
      <span>{props.label}</span>
      <textarea
        class="input"
        rows={props.rows}
        value={props.value}
        placeholder={props.placeholder}
        onInput={(event) => props.onChange(event.currentTarget.value)}
      />
    </label>
  );
}
