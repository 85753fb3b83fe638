import { useId } from "preact/hooks";

/** A field for one line of text, with what else an input takes. */
export function LineField(props: {
  label: string;
  value: string;
  onChange: (value: string) => void;
  suggestions?: string[];
  pattern?: string;
  placeholder?: string | undefined;
  required?: boolean;
  spellcheck?: boolean;
  title?: string;
}) {
  const { label, onChange, suggestions, ...input } = props;
  const list = useId();
  return (
    <label class="field">
      <span class="break">{label}</span>
      <input
        {...input}
        class="input"
        list={suggestions && list}
        autoComplete="off"
        onInput={(event) => onChange(event.currentTarget.value)}
      />
      {suggestions && (
        <datalist id={list}>
          {suggestions.map((each) => (
            <option value={each} key={each} />
          ))}
        </datalist>
      )}
    </label>
  );
}

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
