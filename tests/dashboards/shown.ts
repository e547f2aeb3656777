// What a dashboard of ours has to be for Grafana: its published types, with strings where they have enumerations, and the
// options of each kind of panel, which the types of a dashboard leave open.
import type { AnnotationQuery, Dashboard, Panel, RowPanel } from '@grafana/schema';
import type * as BarGauge from '@grafana/schema/dist/esm/raw/composable/bargauge/panelcfg/x/BarGaugePanelCfg_types.gen';
import type * as Stat from '@grafana/schema/dist/esm/raw/composable/stat/panelcfg/x/StatPanelCfg_types.gen';
import type * as StateTimeline from '@grafana/schema/dist/esm/raw/composable/statetimeline/panelcfg/x/StateTimelinePanelCfg_types.gen';
import type * as Table from '@grafana/schema/dist/esm/raw/composable/table/panelcfg/x/TablePanelCfg_types.gen';
import type * as Text from '@grafana/schema/dist/esm/raw/composable/text/panelcfg/x/TextPanelCfg_types.gen';
import type * as TimeSeries from '@grafana/schema/dist/esm/raw/composable/timeseries/panelcfg/x/TimeSeriesPanelCfg_types.gen';

type Written<T> = T extends string ? `${T}` : T extends object ? { [K in keyof T]: Written<T[K]> } : T;

type Kind<Name, Options, Custom> = Omit<Written<Panel>, 'type' | 'options' | 'fieldConfig'> & {
  type: Name;
  options: Partial<Written<Options>>;
  fieldConfig: {
    defaults: Omit<Written<NonNullable<Panel['fieldConfig']>['defaults']>, 'custom'> & { custom?: Partial<Written<Custom>> };
    overrides: Written<NonNullable<Panel['fieldConfig']>['overrides']>;
  };
};

type Shows =
  | Kind<'bargauge', BarGauge.Options, never>
  | Kind<'stat', Stat.Options, never>
  | Kind<'state-timeline', StateTimeline.Options, StateTimeline.FieldConfig>
  | Kind<'table', Table.Options, Table.FieldConfig>
  | Kind<'text', Text.Options, never>
  | Kind<'timeseries', TimeSeries.Options, TimeSeries.FieldConfig>;

type Row = Omit<Written<RowPanel>, 'panels'> & { panels: Shows[] };

// What Grafana's Prometheus data source reads of an annotation, beside that.
type Annotation = Written<AnnotationQuery> & { expr: string; titleFormat: string; tagKeys: string };

export type Shown = Omit<Written<Dashboard>, 'annotations' | 'panels'> & {
  annotations: { list: Annotation[] };
  panels: (Shows | Row)[];
};
