import type { Variable } from "../shared/agents";
import { Table } from "./table";

/** The variables that an agent's calls fill in, and what stands where a call gives none. */
export function VariableTable({ variables }: { variables: Variable[] }) {
  if (variables.length === 0) return <p class="muted">Its texts have none.</p>;
  return (
    <Table
      label="Variables of the agent"
      rows={variables}
      keyOf={(variable) => variable.name}
      columns={[
        { head: "Name", cell: ({ name }) => <code>{name}</code>, look: "nowrap" },
        { head: "If missing", cell: (variable) => <Otherwise variable={variable} /> },
        { head: "In", cell: ({ fields }) => fields.join(", "), look: "muted small" },
      ]}
    />
  );
}

function Otherwise({ variable: { fallback, isSystem } }: { variable: Variable }) {
  if (isSystem) return <span class="muted">Flow gives it</span>;
  if (fallback === null) return <span class="text-warn">refused</span>;
  return fallback ? <>{fallback}</> : <span class="muted">nothing</span>;
}

/** The variables that a call was given. */
export function VariablesGiven({ variables }: { variables: Record<string, string | number | boolean> }) {
  return (
    <dl class="facts">
      {Object.entries(variables).map(([name, value]) => (
        <>
          <dt>
            <code class="break">{name}</code>
          </dt>
          <dd>{String(value)}</dd>
        </>
      ))}
    </dl>
  );
}
