/** A value in full, folded up. */
export function FoldedJson({ title, value }: { title: string; value: unknown }) {
  return (
    <details class="as-table">
      <summary>{title}</summary>
      <pre class="json json-inside" tabIndex={0}>
        {JSON.stringify(value, null, 2)}
      </pre>
    </details>
  );
}
